#include "ops/cpu/row_products.hpp"

#include <algorithm>
#include <limits>

#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kPackedBytes = 1 << 18;  // at a time: they, and what is packed next, stay in the second cache
constexpr std::int64_t kSumsBytes = 1 << 20;    // of a unit whose k is cut

/// What a unit costs beside its products, roughly: as many rows as are multiplied with a panel in the time that packing
/// it takes, and as many panels as are multiplied with a row in the time that fetching it takes.
struct Overhead {
  double rows, panels;
};
Overhead overhead_of(Way way) {
  if (way == Way::bf16_tiles) return {100.0, 2.0};
  return way == Way::bf16_pairs ? Overhead{24.0, 0.6} : Overhead{12.0, 0.4};
}
constexpr double kWait = 0.25;                   // by which part of a unit threads miss each other in the end
constexpr std::int64_t kMostUnitsOfThread = 12;  // more are not tried

/// One product is cut into groups of panels of w (columns of y) and ranges of blocks of rows. A unit packs its panels
/// and multiplies them with all rows of its range; where k is long, piece by piece, with all sums of the unit kept
/// meanwhile. Of the cuts that keep to the caches, the one that should be done first.
struct Grid {
  Grid(const RowProducts& p, std::int64_t products, int threads)
      : panel(panel_columns(p.way)),
        panels((p.n + panel - 1) / panel),
        terms(cut_evenly(p.k, most_terms(p.way), kStrip)),
        steps(p.parts * terms.pieces()),
        rows{0, 1} {
    choose(p, products * p.experts, threads);
    packed = packed_floats(p.way, group * panel, terms.length(0));
    sums = panel_sums(p.way, rows.length(0), group * panel);
    kept = steps == 1 ? 1 : (blocks + ranges - 1) / ranges;
    scratch = packed + kept * sums + panel_scratch(p.way, rows.length(0), terms.length(0));
  }
  [[nodiscard]] std::int64_t groups_of(std::int64_t width) const { return (panels + width - 1) / width; }
  [[nodiscard]] std::int64_t groups() const { return groups_of(group); }
  /// Sets rows, blocks, group and ranges. `apart`: so many times the units of one product and expert.
  void choose(const RowProducts& p, std::int64_t apart, int threads) {
    const std::int64_t least_pieces = cut_evenly(p.rows, most_rows(p.way, p.k), tile_rows(p.way)).pieces();
    const std::int64_t most_group = std::clamp<std::int64_t>(
        kPackedBytes / std::max<std::int64_t>(1, panel_bytes(p.way, terms.length(0))), 1, panels);
    const Overhead overhead = overhead_of(p.way);
    double least_time = std::numeric_limits<double>::infinity();
    for (std::int64_t number = (panels + most_group - 1) / most_group; number <= panels; ++number) {
      const std::int64_t width = (panels + number - 1) / number;
      if (group == width) continue;
      for (std::int64_t pieces = least_pieces; pieces < least_pieces + 4; ++pieces) {
        const Cut cut = cut_evenly(p.rows, std::max<std::int64_t>(1, (p.rows + pieces - 1) / pieces), tile_rows(p.way));
        const std::int64_t of_expert = p.leaves * cut.pieces();
        const std::int64_t most_kept =
            steps == 1 ? of_expert : std::max<std::int64_t>(1, kSumsBytes / (4 * cut.length(0) * width * panel + 1));
        const std::int64_t least_ranges = (of_expert + most_kept - 1) / most_kept;
        for (std::int64_t of_blocks = least_ranges; of_blocks <= of_expert; ++of_blocks) {
          const std::int64_t units = apart * groups_of(width) * of_blocks;
          if (of_blocks > least_ranges && (threads == 1 || units > kMostUnitsOfThread * threads)) break;
          const std::int64_t blocks_of_unit = (of_expert + of_blocks - 1) / of_blocks;
          const auto rows_of_unit = static_cast<double>(std::min(blocks_of_unit * cut.piece, p.leaves * p.rows));
          const std::int64_t turns = (units + threads - 1) / threads;
          const double time =
              (static_cast<double>(turns) + (threads == 1 ? 0.0 : kWait)) *
              (static_cast<double>(width) * (rows_of_unit + overhead.rows) + overhead.panels * rows_of_unit);
          if (time >= least_time) continue;
          least_time = time;
          group = width;
          rows = cut;
          blocks = of_expert;
          ranges = of_blocks;
        }
      }
    }
  }

  std::int64_t panel, panels;
  Cut terms;           // k
  std::int64_t steps;  // products of a sum
  Cut rows;
  std::int64_t blocks = 1;  // of rows, for one expert
  std::int64_t group = 0;   // panels
  std::int64_t ranges = 1;
  std::int64_t packed = 0;   // floats of a group
  std::int64_t sums = 0;     // floats of a block's sums
  std::int64_t kept = 1;     // blocks whose sums are kept
  std::int64_t scratch = 0;  // floats of a thread
};

/// Of a product that is cut in expert, group and range.
struct Unit {
  const RowProducts& product;
  std::int64_t expert, first, columns, range;
};
Unit unit_of(std::span<const RowProducts> products, const Grid& grid, std::int64_t number) {
  const std::int64_t of_expert = grid.groups() * grid.ranges;
  const RowProducts& p = products[static_cast<std::size_t>(number / of_expert / products.front().experts)];
  const std::int64_t first = number % of_expert / grid.ranges * grid.group * grid.panel;
  return {p, number / of_expert % p.experts, first, std::min(grid.group * grid.panel, p.n - first),
          number % grid.ranges};
}
/// The piece of the weights of a step of the unit that begins at term `term`.
Matrix weights_of(const Unit& unit, std::int64_t part, std::int64_t term) {
  const Matrix& w = unit.product.w[static_cast<std::size_t>(part)];
  const RowProducts& p = unit.product;
  return w.transposed ? w.at(unit.expert * p.n, term) : w.at(unit.expert * p.k + term, 0);
}
void add_weights(const Unit& unit, const Grid& grid, std::int64_t step, Ahead& ahead) {
  const std::int64_t piece = step % grid.terms.pieces();
  const Matrix w = weights_of(unit, step / grid.terms.pieces(), grid.terms.begin(piece));
  const std::int64_t bytes = size_of(w.dtype);
  const std::int64_t terms = grid.terms.length(piece);
  ahead.add((w.transposed ? w.at(unit.first, 0) : w.at(0, unit.first)).data, w.stride * bytes,
            (w.transposed ? terms : unit.columns) * bytes, w.transposed ? unit.columns : terms);
}

/// Where few rows are multiplied with weights, more is to be fetched at a time: about three quarters of what a step
/// fetches are weights.
std::int64_t fetches_of_weights(const Unit& unit, const Grid& grid, std::int64_t begin, std::int64_t end,
                                std::int64_t terms) {
  std::int64_t fetches = 0;
  for (std::int64_t block = begin; block < end; ++block) {
    fetches += fetches_of(unit.product.way, std::max<std::int64_t>(0, grid.rows.length(block % grid.rows.pieces())),
                          terms, unit.columns);
  }
  return fetches * 3 / 4;
}

void multiply_unit(const Unit& unit, const Unit& next, const Grid& grid, float* scratch) {
  const RowProducts& p = unit.product;
  Epilogue epilogue = p.epilogue;
  if (epilogue.bias != nullptr) epilogue.bias += unit.expert * p.n;
  float* const all_sums = scratch + grid.packed;
  const std::int64_t begin = unit.range * grid.blocks / grid.ranges;
  const std::int64_t end = (unit.range + 1) * grid.blocks / grid.ranges;
  for (std::int64_t step = 0; step < grid.steps; ++step) {
    const std::int64_t part = step / grid.terms.pieces();
    const std::int64_t term = grid.terms.begin(step % grid.terms.pieces());
    const std::int64_t terms = grid.terms.length(step % grid.terms.pieces());
    pack_panels(p.way, terms, weights_of(unit, part, term), unit.first, unit.columns, scratch);
    Ahead later;
    if (step + 1 < grid.steps) {
      add_weights(unit, grid, step + 1, later);
    } else if (next.expert != unit.expert || next.first != unit.first || &next.product != &unit.product) {
      add_weights(next, grid, 0, later);
    }
    later.finish_within(fetches_of_weights(unit, grid, begin, end, terms));
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t leaf = block / grid.rows.pieces();
      const std::int64_t piece = block % grid.rows.pieces();
      const std::int64_t row = (leaf * p.experts + unit.expert) * p.rows + grid.rows.begin(piece);
      const std::int64_t rows = grid.rows.length(piece);
      if (rows <= 0) continue;
      float* const sums = all_sums + (grid.steps == 1 ? 0 : block - begin) * grid.sums;
      multiply(PanelProduct{p.way, rows, terms, p.a[static_cast<std::size_t>(part)].at(row, term), scratch, unit.first,
                            unit.columns, epilogue.at(row), sums, all_sums + grid.kept * grid.sums, step == 0,
                            step + 1 == grid.steps, &later});
    }
  }
}

}  // namespace

void multiply(std::span<const RowProducts> products, int threads, Workspace& workspace) {
  const RowProducts& one = products.front();
  if (one.n == 0) return;
  const auto count = static_cast<std::int64_t>(products.size());
  const Grid grid(one, count, threads);
  float* const scratches = workspace.floats(threads * grid.scratch);
  const std::int64_t units = count * one.experts * grid.groups() * grid.ranges;
  for_each_unit(threads, units, [&](std::int64_t number, int thread) {
    // What this thread will probably do next: its weights are fetched in time.
    const Unit next = unit_of(products, grid, std::min(number + 1, units - 1));
    multiply_unit(unit_of(products, grid, number), next, grid, scratches + thread * grid.scratch);
  });
}

}  // namespace vitrail::cpu
