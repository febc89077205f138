#include "ops/cpu/weight_gradient.hpp"

#include <algorithm>
#include <bit>

#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kMostRowsOfPiece = 512;
// The most rows and columns of a tile: its sums stay in the second cache. With few tiles for many threads they are
// smaller, which costs packing but no bits.
constexpr std::int64_t kTileIn = 384;
constexpr std::int64_t kTileOut = 256;
constexpr std::int64_t kLeastTile = 64;
constexpr std::int64_t kUnitsOfThread = 4;
constexpr std::int64_t kStreamedBytes = 4 << 20;

/// p[0] = tree over p[0], p[step], p[2 step] ... (count of them), on n elements each.
void tree_rows(float* p, std::int64_t step, std::int64_t count, std::int64_t n) {
  for (std::int64_t width = 1; width < count; width *= 2) {
    for (std::int64_t i = 0; i + width < count; i += 2 * width) add_into(p + (i + width) * step, p + i * step, n);
  }
}

/// Narrow weights: too little output to cut, so the rows are cut, in fixed pieces.
void by_rows(std::span<const WeightGradient> jobs, const WeightGradientShape& s, int threads, Workspace& workspace) {
  const Cut cut = pieces_of_rows(s.rows);
  const std::int64_t pieces = cut.pieces();
  const std::int64_t weights = s.in * s.out;
  const std::int64_t biases = aligned_floats(weights);  // where they stand in a partial
  const std::int64_t partial = biases + aligned_floats(s.out);
  const std::int64_t blocks = static_cast<std::int64_t>(jobs.size()) * s.experts;
  const std::int64_t scratch = aligned_floats(column_product_scratch(s.way, s.in, s.out, cut.length(0)));
  float* const scratches = workspace.floats(threads * scratch + blocks * s.leaves * pieces * partial);
  float* const partials = scratches + threads * scratch;
  for_each_unit(threads, blocks * s.leaves * pieces, [&](std::int64_t unit, int thread) {
    const std::int64_t block = unit / (s.leaves * pieces);  // (job, expert)
    const WeightGradient& job = jobs[static_cast<std::size_t>(block / s.experts)];
    const std::int64_t leaf = unit / pieces % s.leaves;
    const std::int64_t rows = cut.length(unit % pieces);
    const std::int64_t first = (leaf * s.experts + block % s.experts) * s.rows + cut.begin(unit % pieces);
    float* const dw = partials + unit * partial;
    multiply(ColumnProduct{s.way, s.in, s.out, rows, job.x.at(first, 0), job.dy.at(first, 0), into_floats(dw, s.out),
                           job.db != nullptr ? dw + biases : nullptr, scratches + thread * scratch});
  });
  tree_sums(2 * blocks, std::max(weights, s.out), s.leaves, pieces, threads, [&](std::int64_t i) -> PartialSum {
    const std::int64_t block = i / 2;
    const WeightGradient& job = jobs[static_cast<std::size_t>(block / s.experts)];
    const std::int64_t expert = block % s.experts;
    float* const from = partials + block * s.leaves * pieces * partial;
    if (i % 2 == 0) return {from, partial, weights, job.dw + expert * weights};
    return {from + biases, partial, job.db != nullptr ? s.out : 0, job.db + expert * s.out};
  });
}

/// Adds up leaves as they come: level i holds a sum over 2^i of them, as the digits of a binary counter.
class LeafCounter {
 public:
  LeafCounter(float* levels, std::int64_t n) : levels_(levels), n_(n) {}
  /// Where the next leaf's value is to be written.
  [[nodiscard]] float* next() const { return levels_ + used_ * n_; }
  /// The value at next() is complete.
  void add() {
    ++used_;
    ++leaves_;
    for (std::int64_t twins = leaves_; twins % 2 == 0; twins /= 2) {
      --used_;
      add_into(levels_ + used_ * n_, levels_ + (used_ - 1) * n_, n_);
    }
  }
  /// Levels that `leaves` leaves need.
  static std::int64_t levels(std::int64_t leaves) {
    return static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>(leaves)));
  }

 private:
  float* levels_;
  std::int64_t n_;
  std::int64_t used_ = 0;
  std::int64_t leaves_ = 0;
};

/// A tile of a weight's gradient, and of its bias's.
struct TileGradient {
  float* dw;  // [height width], rows `stride` apart
  std::int64_t stride;
  float* db;  // [width], or nullptr
  std::int64_t height, width;
};
/// Floats that sum_leaves needs for tiles of at most this size. One leaf's gradient is written where it belongs.
std::int64_t sum_leaves_scratch(std::int64_t leaves, std::int64_t height, std::int64_t width) {
  return leaves > 1 ? LeafCounter::levels(leaves) * (aligned_floats(height * width) + aligned_floats(width)) : 0;
}
/// Sums over the leaves by their tree; of_leaf(leaf, dw, stride, db) writes the gradient of one, dw's rows `stride`
/// apart.
template <class OfLeaf>
void sum_leaves(const TileGradient& to, std::int64_t leaves, float* scratch, const OfLeaf& of_leaf) {
  if (leaves == 1) return of_leaf(0, to.dw, to.stride, to.db);
  const std::int64_t n = to.height * to.width;
  float* const db = scratch + LeafCounter::levels(leaves) * aligned_floats(n);
  LeafCounter weights(scratch, n);
  LeafCounter biases(db, to.width);
  for (std::int64_t leaf = 0; leaf < leaves; ++leaf) {
    of_leaf(leaf, weights.next(), to.width, to.db != nullptr ? biases.next() : nullptr);
    weights.add();
    if (to.db != nullptr) biases.add();
  }
  for (std::int64_t i = 0; i < to.height; ++i) std::copy_n(scratch + i * to.width, to.width, to.dw + i * to.stride);
  if (to.db != nullptr) std::copy_n(db, to.width, to.db);
}

/// A piece of one expert's gradient: pieces `row` of the rows and `column` of the columns.
struct Tile {
  const WeightGradient& job;
  std::int64_t expert, row, column;
};

/// A gradient that no cache holds until the optimizer comes is written past them.
bool is_streamed(const WeightGradientShape& s, std::int64_t blocks) {
  return s.leaves == 1 && blocks * s.in * s.out * 4 > kStreamedBytes;
}

/// Wide weights: cut in tiles, each summed over all rows of a leaf at once and over the leaves in order.
void by_tiles(std::span<const WeightGradient> jobs, const WeightGradientShape& s, int threads, Workspace& workspace) {
  Cut in = cut_evenly(s.in, kTileIn, kStrip);
  const Cut out = cut_evenly(s.out, kTileOut, kStrip);
  const std::int64_t blocks = static_cast<std::int64_t>(jobs.size()) * s.experts;
  while (threads > 1 && blocks * in.pieces() * out.pieces() < kUnitsOfThread * threads && in.piece > kLeastTile)
    in = cut_evenly(s.in, in.piece / 2, kStrip);
  const std::int64_t tiles = in.pieces() * out.pieces();
  const std::int64_t copies = aligned_floats(column_product_scratch(s.way, in.piece, out.piece, s.rows));
  const std::int64_t per_thread = copies + sum_leaves_scratch(s.leaves, in.piece, out.piece);
  float* const scratch = workspace.floats(threads * per_thread);
  const bool stream = is_streamed(s, blocks);
  const auto tile_of = [&](std::int64_t unit) {
    return Tile{jobs[static_cast<std::size_t>(unit / (s.experts * tiles))], unit / tiles % s.experts,
                unit % tiles / out.pieces(), unit % out.pieces()};
  };
  const auto product_of = [&](const Tile& tile, std::int64_t leaf, float* dw, std::int64_t stride) {
    const std::int64_t first = (leaf * s.experts + tile.expert) * s.rows;
    ColumnProduct p{s.way,
                    in.length(tile.row),
                    out.length(tile.column),
                    s.rows,
                    tile.job.x.at(first, in.begin(tile.row)),
                    tile.job.dy.at(first, out.begin(tile.column)),
                    into_floats(dw, stride),
                    nullptr,
                    nullptr};
    p.y.stream = stream;
    return p;
  };
  for_each_unit(threads, blocks * tiles, [&](std::int64_t unit, int thread) {
    const Tile tile = tile_of(unit);
    const std::int64_t column = tile.expert * s.out + out.begin(tile.column);
    float* const copy = scratch + thread * per_thread;
    Ahead later;  // what this thread will probably do next
    add_first_block(product_of(tile_of(std::min(unit + threads, blocks * tiles - 1)), 0, nullptr, s.out), later);
    const TileGradient to{tile.job.dw + (tile.expert * s.in + in.begin(tile.row)) * s.out + out.begin(tile.column),
                          s.out, tile.row == 0 && tile.job.db != nullptr ? tile.job.db + column : nullptr,
                          in.length(tile.row), out.length(tile.column)};
    sum_leaves(to, s.leaves, copy + copies, [&](std::int64_t leaf, float* dw, std::int64_t stride, float* db) {
      ColumnProduct p = product_of(tile, leaf, dw, stride);
      p.sums = db;
      p.scratch = copy;
      p.later = leaf + 1 == s.leaves ? &later : nullptr;
      multiply(p);
    });
  });
}

// In f32, x is transposed beforehand, some of it at a time. Then a tile is a product of rows as others are: all terms
// of its sums at once, with panels of dy that are packed once for many rows. (In bf16 both are packed as pairs anyhow.)

constexpr std::int64_t kTransposedBytes = 4 << 20;  // about, for each thread
constexpr std::int64_t kPackedBytes = 1 << 18;
constexpr std::int64_t kLeastRows = 96;

/// x is cut in slices: some of its columns, of one job and expert. A few slices are transposed at a time, then their
/// gradients made, cut in tiles of rows and columns.
struct Slices {
  Slices(const WeightGradientShape& s, std::int64_t blocks, int threads, bool is_transposed)
      : stride(is_transposed ? s.rows : aligned_floats(s.rows) + (aligned_floats(s.rows) % 1024 == 0 ? 16 : 0)),
        in(is_transposed ? whole(s.in) : cut_evenly(s.in, std::max(columns_at_once(s, threads), kStrip), kStrip)),
        count(blocks * in.pieces()),
        at_once(is_transposed ? count : std::clamp<std::int64_t>(columns_at_once(s, threads) / in.piece, 1, count)),
        floats(is_transposed ? 0 : s.leaves * in.piece * stride),
        terms(cut_evenly(s.rows, most_terms(Way::f32))),
        out(cut_evenly(s.out, panels_of_tile() * panel_columns(Way::f32), kStrip)),
        rows(cut_evenly(in.piece, in.piece, kTileRows)) {
    while (threads > 1 && at_once * tiles() < kUnitsOfThread * threads && rows.piece > kLeastRows)
      rows = cut_evenly(in.piece, rows.piece / 2, kTileRows);
    blocks_of_rows = cut_evenly(rows.piece, most_rows(Way::f32, terms.length(0)), kTileRows);
    packed = packed_floats(Way::f32, out.piece, terms.length(0));
    sums = panel_sums(Way::f32, blocks_of_rows.length(0), out.piece);
    copies = packed + (terms.pieces() > 1 ? blocks_of_rows.pieces() : 1) * sums;
    scratch = copies + panel_scratch(Way::f32, blocks_of_rows.length(0), terms.length(0));
  }
  [[nodiscard]] std::int64_t columns_at_once(const WeightGradientShape& s, int threads) const {
    return std::max<std::int64_t>(1, kTransposedBytes * threads / (4 * s.leaves * stride));
  }
  [[nodiscard]] std::int64_t panels_of_tile() const {
    return std::max<std::int64_t>(1, kPackedBytes / std::max<std::int64_t>(1, panel_bytes(Way::f32, terms.length(0))));
  }
  [[nodiscard]] std::int64_t tiles() const { return rows.pieces() * out.pieces(); }

  static constexpr std::int64_t kTileRows = 6;  // in registers

  // Of a row of what is transposed: whole cache lines, not a multiple of 4096 bytes; or as x came.
  std::int64_t stride;
  Cut in;
  std::int64_t count, at_once;
  std::int64_t floats;  // of a slice: [leaves columns stride]
  Cut terms, out, rows;
  Cut blocks_of_rows{0, 1};  // multiplied at once
  std::int64_t packed = 0;   // floats of a tile's panels
  std::int64_t sums = 0;     // floats of a block's sums
  std::int64_t copies = 0;   // where they begin in a thread's scratch
  std::int64_t scratch = 0;  // floats of a thread
};
struct Slice {
  const WeightGradient& job;
  std::int64_t expert, first, columns;
};
Slice slice_of(std::span<const WeightGradient> jobs, const WeightGradientShape& s, const Slices& slices,
               std::int64_t number) {
  const std::int64_t block = number / slices.in.pieces();
  const std::int64_t piece = number % slices.in.pieces();
  return {jobs[static_cast<std::size_t>(block / s.experts)], block % s.experts, slices.in.begin(piece),
          slices.in.length(piece)};
}

/// One leaf's gradient of a tile: y = x dy, and db the sums of dy's columns if not nullptr. x is transposed, at the
/// tile's first row; dy is at its first column.
void multiply_tile(const WeightGradientShape& s, const Slices& slices, const float* x, const Matrix& dy,
                   const TileGradient& tile, bool stream, float* scratch) {
  float* const sums = scratch + slices.packed;
  const Cut& rows = slices.blocks_of_rows;
  for (std::int64_t piece = 0; piece < slices.terms.pieces(); ++piece) {
    const std::int64_t first = slices.terms.begin(piece);
    const std::int64_t terms = slices.terms.length(piece);
    pack_panels(s.way, terms, dy.at(first, 0), 0, tile.width, scratch);
    if (tile.db != nullptr) sum_columns(dy.at(first, 0), terms, tile.width, tile.db, piece > 0);
    for (std::int64_t i = 0; i < rows.pieces() && rows.begin(i) < tile.height; ++i) {
      const std::int64_t row = rows.begin(i);
      Epilogue y = into_floats(tile.dw + row * tile.stride, tile.stride);
      y.stream = stream;
      multiply(PanelProduct{Way::f32, std::min(rows.piece, tile.height - row), terms,
                            Matrix{x + row * slices.stride + first, Dtype::f32, slices.stride}, scratch, 0, tile.width,
                            y, sums + (slices.terms.pieces() > 1 ? i * slices.sums : 0), scratch + slices.copies,
                            piece == 0, piece + 1 == slices.terms.pieces()});
    }
  }
}

void by_slices(std::span<const WeightGradient> jobs, const WeightGradientShape& s, int threads, Workspace& workspace) {
  const std::int64_t blocks = static_cast<std::int64_t>(jobs.size()) * s.experts;
  const bool is_transposed = jobs.front().x.transposed;
  const Slices slices(s, blocks, threads, is_transposed);
  const std::int64_t per_thread = slices.scratch + sum_leaves_scratch(s.leaves, slices.rows.piece, slices.out.piece);
  float* const scratches = workspace.floats(threads * per_thread + slices.at_once * slices.floats);
  float* const transposed = scratches + threads * per_thread;
  const bool stream = is_streamed(s, blocks);
  for (std::int64_t begin = 0; begin < slices.count; begin += slices.at_once) {
    const std::int64_t count = std::min(slices.at_once, slices.count - begin);
    const std::int64_t strips = (slices.in.piece + kStrip - 1) / kStrip;
    for_each_unit(threads, is_transposed ? 0 : count * s.leaves * strips, [&](std::int64_t unit, int) {
      const std::int64_t number = unit / (s.leaves * strips);
      const std::int64_t leaf = unit / strips % s.leaves;
      const std::int64_t first = unit % strips * kStrip;
      const Slice slice = slice_of(jobs, s, slices, begin + number);
      if (first >= slice.columns) return;
      transpose_floats(s.way, slice.job.x.at((leaf * s.experts + slice.expert) * s.rows, slice.first + first), s.rows,
                       std::min(kStrip, slice.columns - first),
                       transposed + number * slices.floats + (leaf * slices.in.piece + first) * slices.stride,
                       slices.stride);
    });
    for_each_unit(threads, count * slices.tiles(), [&](std::int64_t unit, int thread) {
      const std::int64_t number = unit / slices.tiles();
      const Slice slice = slice_of(jobs, s, slices, begin + number);
      const std::int64_t row = slices.rows.begin(unit % slices.tiles() / slices.out.pieces());
      const std::int64_t column = slices.out.begin(unit % slices.out.pieces());
      if (row >= slice.columns) return;
      const TileGradient to{
          slice.job.dw + (slice.expert * s.in + slice.first + row) * s.out + column, s.out,
          slice.first + row == 0 && slice.job.db != nullptr ? slice.job.db + slice.expert * s.out + column : nullptr,
          std::min(slices.rows.piece, slice.columns - row), slices.out.length(unit % slices.out.pieces())};
      float* const scratch = scratches + thread * per_thread;
      sum_leaves(
          to, s.leaves, scratch + slices.scratch, [&](std::int64_t leaf, float* dw, std::int64_t stride, float* db) {
            const float* const x =
                is_transposed ? static_cast<const float*>(slice.job.x.data) +
                                    ((leaf * s.experts + slice.expert) * s.in + row) * slices.stride
                              : transposed + number * slices.floats + (leaf * slices.in.piece + row) * slices.stride;
            multiply_tile(s, slices, x, slice.job.dy.at((leaf * s.experts + slice.expert) * s.rows, column),
                          {dw, stride, db, to.height, to.width}, stream, scratch);
          });
    });
  }
}

}  // namespace

void weight_gradients(std::span<const WeightGradient> jobs, const WeightGradientShape& shape, int threads,
                      Workspace& workspace) {
  const bool f32 = shape.way == Way::f32 || shape.way == Way::f32_of_rounded;
  (shape.in * shape.out <= kSmallWeights ? by_rows : f32 ? by_slices : by_tiles)(jobs, shape, threads, workspace);
}

Cut pieces_of_rows(std::int64_t rows) { return cut_evenly(rows, kMostRowsOfPiece); }

void add_up(const PartialSum& sum, std::int64_t begin, std::int64_t leaves, std::int64_t pieces) {
  const std::int64_t n = std::min(kPieceOfSum, sum.n - begin);
  if (n <= 0) return;
  float* const from = sum.partials + begin;
  for (std::int64_t leaf = 0; leaf < leaves; ++leaf) {
    tree_rows(from + leaf * pieces * sum.stride, sum.stride, pieces, n);
  }
  tree_rows(from, pieces * sum.stride, leaves, n);
  std::copy_n(from, n, sum.out + begin);
}

}  // namespace vitrail::cpu
