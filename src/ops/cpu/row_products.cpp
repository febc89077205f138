#include "ops/cpu/row_products.hpp"

#include <algorithm>

#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kUnitsOfThread = 4;      // about as many are enough that threads end together
constexpr std::int64_t kPackedBytes = 1 << 19;  // at a time: they, and what is packed next, stay in the second cache
constexpr std::int64_t kSumsBytes = 1 << 20;    // of a unit whose k is cut
constexpr std::int64_t kRowsUnit = 16;          // rows of a tile; the register tiles of f32 take any number

/// One product is cut into groups of panels of w (columns of y) and ranges of blocks of rows. A unit packs its panels
/// and multiplies them with all rows of its range; where k is long, piece by piece, with all sums of the unit kept
/// meanwhile.
struct Grid {
  Grid(const RowProducts& p, std::int64_t products, int threads)
      : panel(panel_columns(p.way)),
        panels((p.n + panel - 1) / panel),
        terms{p.k, std::min(std::max<std::int64_t>(1, p.k), most_terms(p.way))},
        steps(p.parts * terms.pieces()),
        rows(cut_evenly(p.rows, most_rows(p.way, p.k), kRowsUnit)),
        blocks(p.leaves * rows.pieces()),
        group(std::clamp<std::int64_t>(kPackedBytes / std::max<std::int64_t>(1, panel_bytes(p.way, terms.length(0))), 1,
                                       panels)) {
    const std::int64_t wanted = threads == 1 ? 1 : kUnitsOfThread * threads;
    const std::int64_t apart = products * p.experts;
    // Rows first: a range costs packing once more, a smaller group reading (and rounding) its rows once more.
    const std::int64_t most_blocks =
        steps == 1 ? blocks : std::max<std::int64_t>(1, kSumsBytes / (4 * rows.length(0) * group * panel + 1));
    ranges = std::clamp((wanted + apart * groups() - 1) / (apart * groups()), (blocks + most_blocks - 1) / most_blocks,
                        blocks);
    while (group > 1 && apart * groups() * ranges < wanted) group = (group + 1) / 2;
    packed = packed_floats(p.way, group * panel, terms.length(0));
    sums = panel_sums(p.way, rows.length(0), group * panel);
    kept = steps == 1 ? 1 : (blocks + ranges - 1) / ranges;
    scratch = packed + kept * sums + panel_scratch(p.way, rows.length(0), terms.length(0));
  }
  [[nodiscard]] std::int64_t groups() const { return (panels + group - 1) / group; }

  std::int64_t panel, panels;
  Cut terms;           // k
  std::int64_t steps;  // products of a sum
  Cut rows;
  std::int64_t blocks;  // of rows, for one expert
  std::int64_t group;   // panels
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
  return w.at(unit.expert * unit.product.k * unit.product.n + (w.transposed ? term : term * w.stride));
}
void add_weights(const Unit& unit, const Grid& grid, std::int64_t step, Ahead& ahead) {
  const std::int64_t piece = step % grid.terms.pieces();
  const Matrix w = weights_of(unit, step / grid.terms.pieces(), grid.terms.begin(piece));
  const std::int64_t bytes = size_of(w.dtype);
  const std::int64_t terms = grid.terms.length(piece);
  ahead.add(w.at(w.transposed ? unit.first * w.stride : unit.first).data, w.stride * bytes,
            (w.transposed ? terms : unit.columns) * bytes, w.transposed ? unit.columns : terms);
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
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t leaf = block / grid.rows.pieces();
      const std::int64_t piece = block % grid.rows.pieces();
      const std::int64_t row = (leaf * p.experts + unit.expert) * p.rows + grid.rows.begin(piece);
      const std::int64_t rows = grid.rows.length(piece);
      if (rows <= 0) continue;
      float* const sums = all_sums + (grid.steps == 1 ? 0 : block - begin) * grid.sums;
      multiply(PanelProduct{p.way, rows, terms, p.a[static_cast<std::size_t>(part)].at(row * p.k + term), scratch,
                            unit.first, unit.columns, epilogue.at(row), sums, all_sums + grid.kept * grid.sums,
                            step == 0, step + 1 == grid.steps, &later});
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
    const Unit next = unit_of(products, grid, std::min(number + threads, units - 1));
    multiply_unit(unit_of(products, grid, number), next, grid, scratches + thread * grid.scratch);
  });
}

}  // namespace vitrail::cpu
