#include "ops/cpu/weight_gradient.hpp"

#include <algorithm>
#include <bit>
#include <optional>

#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kMostRowsOfPiece = 512;
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
  std::optional<AdamWRun> update;  // instead of dw: the weight's at the tile
};
/// From a gradient [rows width], which is that of the tile's rows from `row` on.
void update_rows(const TileGradient& tile, std::int64_t row, std::int64_t rows, const float* gradient,
                 std::int64_t gradient_stride) {
  AdamWRun run = tile.update->at(row * tile.update->stride);
  run.gradient = gradient;
  run.gradient_stride = gradient_stride;
  run.rows = rows;
  run.n = tile.width;
  adamw_run(run);
}
/// Floats that sum_leaves needs for tiles of at most this size. One leaf's gradient is written where it belongs.
std::int64_t sum_leaves_scratch(std::int64_t leaves, std::int64_t height, std::int64_t width) {
  return leaves > 1 ? LeafCounter::levels(leaves) * (aligned_floats(height * width) + aligned_floats(width)) : 0;
}
/// Sums over the leaves by their tree; of_leaf(leaf, tile) makes that of one.
template <class OfLeaf>
void sum_leaves(const TileGradient& to, std::int64_t leaves, float* scratch, const OfLeaf& of_leaf) {
  if (leaves == 1) return of_leaf(0, to);
  const std::int64_t n = to.height * to.width;
  float* const db = scratch + LeafCounter::levels(leaves) * aligned_floats(n);
  LeafCounter weights(scratch, n);
  LeafCounter biases(db, to.width);
  for (std::int64_t leaf = 0; leaf < leaves; ++leaf) {
    of_leaf(leaf, TileGradient{weights.next(), to.width, to.db != nullptr ? biases.next() : nullptr, to.height,
                               to.width, std::nullopt});
    weights.add();
    if (to.db != nullptr) biases.add();
  }
  if (to.update) {
    update_rows(to, 0, to.height, scratch, to.width);
  } else {
    for (std::int64_t i = 0; i < to.height; ++i) std::copy_n(scratch + i * to.width, to.width, to.dw + i * to.stride);
  }
  if (to.db != nullptr) std::copy_n(db, to.width, to.db);
}

/// A gradient that no cache holds until the optimizer comes is written past them.
bool is_streamed(const WeightGradientShape& s, std::int64_t blocks) {
  return s.leaves == 1 && blocks * s.in * s.out * 4 > kStreamedBytes;
}

// Wide weights: x is transposed beforehand, some of it at a time. Then a tile of the gradient is a product of rows as
// others are: all terms of its sums at once, with panels of dy that are packed once for many rows. With few tiles for
// many threads they are smaller, which costs packing but no bits.

constexpr std::int64_t kTransposedBytes = 4 << 20;  // about, for each thread
constexpr std::int64_t kOwnBytes = 3 << 17;         // what a thread keeps for itself, in the second cache
constexpr std::int64_t kPackedBytes = 1 << 18;
constexpr std::int64_t kLeastRows = 96;
constexpr std::int64_t kLeastOwnRows = 384;
constexpr std::int64_t kUpdatedBytes = 3 << 17;  // at a time, of a gradient and what it moves, in the second cache

/// x is cut in slices: some of its columns, of one job and expert. Where few rows leave the second cache room for it, a
/// thread transposes a slice for itself and makes its gradient, or a part of the columns; else all threads transpose a
/// few slices, then make their gradients, cut in tiles of rows and columns.
struct Slices {
  Slices(const WeightGradientShape& s, std::int64_t blocks, int threads, bool is_transposed, bool updates)
      : dtype(multiplied_dtype(s.way)),
        stride(is_transposed ? s.rows : stride_of(padded_terms(s.way, s.rows))),
        terms(cut_evenly(s.rows, most_terms(s.way), kStrip)),
        out(cut_evenly(s.out, panels_of_tile(s.way) * panel_columns(s.way), kStrip)) {
    const std::int64_t own_columns = columns_in(kOwnBytes, s);
    const std::int64_t enough = threads > 1 ? kUnitsOfThread * threads : 1;
    in = is_transposed ? whole(s.in) : cut_evenly(s.in, own_columns, kStrip);
    own =
        !is_transposed && own_columns >= std::min(s.in, kLeastOwnRows) && blocks * in.pieces() * out.pieces() >= enough;
    if (!own && !is_transposed) in = cut_evenly(s.in, columns_in(kTransposedBytes * threads, s), kStrip);
    count = blocks * in.pieces();
    at_once = own || is_transposed
                  ? count
                  : std::clamp<std::int64_t>(columns_in(kTransposedBytes * threads, s) / in.piece, 1, count);
    parts = own ? std::clamp<std::int64_t>((enough + count - 1) / count, 1, out.pieces()) : out.pieces();
    floats = is_transposed ? 0 : s.leaves * in.piece * stride * size_of(dtype) / 4;
    rows = cut_evenly(in.piece, in.piece, tile_rows(s.way));
    while (!own && at_once * rows.pieces() * parts < enough && rows.piece > kLeastRows)
      rows = cut_evenly(in.piece, rows.piece / 2, tile_rows(s.way));
    std::int64_t most = most_rows(s.way, terms.length(0));
    if (updates && s.leaves == 1) most = std::min(most, kUpdatedBytes / (out.piece * 16));
    blocks_of_rows = cut_evenly(rows.piece, std::max<std::int64_t>(1, most), tile_rows(s.way));
    packed = packed_floats(s.way, out.piece, terms.length(0));
    sums = panel_sums(s.way, blocks_of_rows.length(0), out.piece);
    copies = packed + (terms.pieces() > 1 ? blocks_of_rows.pieces() : 1) * sums;
    leaves = copies + panel_scratch(s.way, blocks_of_rows.length(0), terms.length(0));
    updated = leaves + sum_leaves_scratch(s.leaves, rows.piece, out.piece);
    updated_stride = aligned_floats(out.piece) + 16;  // not a multiple of 4096 bytes
    transposed = updated + (updates && s.leaves == 1 ? blocks_of_rows.length(0) * updated_stride : 0);
    scratch = transposed + (own ? floats : 0);
  }
  /// Whole cache lines for so many elements, and not a multiple of 4096 bytes.
  [[nodiscard]] std::int64_t stride_of(std::int64_t elements) const {
    const std::int64_t line = 64 / size_of(dtype);
    const std::int64_t lines = (elements + line - 1) / line;
    return (lines % 64 == 0 ? lines + 1 : lines) * line;
  }
  /// Columns of all leaves that fill about so many bytes.
  [[nodiscard]] std::int64_t columns_in(std::int64_t bytes, const WeightGradientShape& s) const {
    return std::max(kStrip, bytes / std::max<std::int64_t>(1, size_of(dtype) * s.leaves * stride));
  }
  [[nodiscard]] std::int64_t panels_of_tile(Way way) const {
    return std::max<std::int64_t>(1, kPackedBytes / std::max<std::int64_t>(1, panel_bytes(way, terms.length(0))));
  }

  Dtype dtype;
  std::int64_t stride;  // elements of a row of what is transposed
  Cut terms, out;
  Cut in{0, 1};
  bool own = false;
  std::int64_t count = 0, at_once = 0;
  std::int64_t parts = 1;   // of the tiles beside each other; each is a unit of work
  std::int64_t floats = 0;  // of a slice: [leaves columns stride]
  Cut rows{0, 1};
  Cut blocks_of_rows{0, 1};  // multiplied at once
  // Floats of a tile's panels, and of a block's sums.
  std::int64_t packed = 0, sums = 0;
  std::int64_t updated_stride = 0;  // of rows of a gradient that moves weights at once
  // Of a thread's scratch: panels and sums, then from where it is copies, sums over leaves, such a gradient, and its
  // own slice; its end.
  std::int64_t copies = 0, leaves = 0, updated = 0, transposed = 0, scratch = 0;
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

/// What update_rows reads and writes, to come under a product of these rows with `terms` terms.
Ahead memory_of_update(Way way, const TileGradient& tile, std::int64_t row, std::int64_t rows, std::int64_t terms) {
  Ahead ahead;
  const AdamWRun run = tile.update->at(row * tile.update->stride);
  for (const float* x : {run.parameter, run.m, run.v}) ahead.add(x, run.stride * 4, tile.width * 4, rows);
  ahead.finish_within(fetches_of(way, rows, terms, tile.width));
  return ahead;
}

/// One leaf's gradient of a tile: y = x dy, and db the sums of dy's columns if not nullptr. x is transposed, at the
/// tile's first row; dy is at its first column.
void multiply_tile(const WeightGradientShape& s, const Slices& slices, const Matrix& x, const Matrix& dy,
                   const TileGradient& tile, bool stream, float* scratch) {
  float* const sums = scratch + slices.packed;
  float* const updated = scratch + slices.updated;
  const Cut& rows = slices.blocks_of_rows;
  for (std::int64_t piece = 0; piece < slices.terms.pieces(); ++piece) {
    const std::int64_t first = slices.terms.begin(piece);
    const std::int64_t terms = slices.terms.length(piece);
    pack_panels(s.way, terms, dy.at(first, 0), 0, tile.width, scratch);
    if (tile.db != nullptr) sum_columns(dy.at(first, 0), terms, tile.width, tile.db, piece > 0);
    for (std::int64_t i = 0; i < rows.pieces() && rows.begin(i) < tile.height; ++i) {
      const std::int64_t row = rows.begin(i);
      const std::int64_t height = std::min(rows.piece, tile.height - row);
      const bool last = piece + 1 == slices.terms.pieces();
      Epilogue y = tile.update ? into_floats(updated, slices.updated_stride)
                               : into_floats(tile.dw + row * tile.stride, tile.stride);
      y.stream = stream && !tile.update;
      y.is_near = tile.update.has_value();
      Ahead later = tile.update && last ? memory_of_update(s.way, tile, row, height, terms) : Ahead();
      multiply(PanelProduct{after_rounding(s.way), height, padded_terms(s.way, terms), x.at(row, first), scratch, 0,
                            tile.width, y, sums + (slices.terms.pieces() > 1 ? i * slices.sums : 0),
                            scratch + slices.copies, piece == 0, last, &later});
      if (tile.update && last) update_rows(tile, row, height, updated, slices.updated_stride);
    }
  }
}

void by_slices(std::span<const WeightGradient> jobs, const WeightGradientShape& s, int threads, Workspace& workspace) {
  const std::int64_t blocks = static_cast<std::int64_t>(jobs.size()) * s.experts;
  const bool is_transposed = jobs.front().x.transposed;
  const Slices slices(s, blocks, threads, is_transposed, jobs.front().update != nullptr);
  const bool together = !slices.own && !is_transposed;
  const bool stream = is_streamed(s, blocks);
  float* const scratches = workspace.floats(threads * slices.scratch + (together ? slices.at_once * slices.floats : 0));
  const std::int64_t strips = (slices.in.piece + kStrip - 1) / kStrip;
  // Where number `number` of those at once is transposed, from its column `column` on.
  const auto transposed = [&](std::int64_t number, int thread, std::int64_t leaf, std::int64_t column) {
    float* const first = slices.own ? scratches + thread * slices.scratch + slices.transposed
                                    : scratches + threads * slices.scratch + number * slices.floats;
    return Matrix{first, slices.dtype, slices.stride}.at(leaf * slices.in.piece + column, 0);
  };
  // Strip number `i` of those of all leaves.
  const auto transpose = [&](const Slice& slice, std::int64_t number, int thread, std::int64_t i) {
    const std::int64_t leaf = i / strips;
    const std::int64_t first = i % strips * kStrip;
    if (first >= slice.columns) return;
    transpose_operand(s.way, slice.job.x.at((leaf * s.experts + slice.expert) * s.rows, slice.first + first), s.rows,
                      std::min(kStrip, slice.columns - first),
                      const_cast<void*>(transposed(number, thread, leaf, first).data), slices.stride);
  };
  const auto make_tile = [&](const Slice& slice, std::int64_t number, int thread, std::int64_t row,
                             std::int64_t piece) {
    const std::int64_t column = slices.out.begin(piece);
    const std::int64_t first = (slice.expert * s.in + slice.first + row) * s.out + column;
    TileGradient to{
        slice.job.update == nullptr ? slice.job.dw + first : nullptr,
        s.out,
        slice.first + row == 0 && slice.job.db != nullptr ? slice.job.db + slice.expert * s.out + column : nullptr,
        std::min(slices.rows.piece, slice.columns - row),
        slices.out.length(piece),
        std::nullopt};
    if (slice.job.update != nullptr) {
      to.update = slice.job.update->at(first);
      to.update->stride = s.out;
    }
    float* const scratch = scratches + thread * slices.scratch;
    sum_leaves(to, s.leaves, scratch + slices.leaves, [&](std::int64_t leaf, const TileGradient& tile) {
      const std::int64_t block = leaf * s.experts + slice.expert;
      const Matrix x = is_transposed ? Matrix{slice.job.x.data, slices.dtype, slices.stride}.at(block * s.in + row, 0)
                                     : transposed(number, thread, leaf, row);
      multiply_tile(s, slices, x, slice.job.dy.at(block * s.rows, column), tile, stream, scratch);
    });
  };
  for (std::int64_t begin = 0; begin < slices.count; begin += slices.at_once) {
    const std::int64_t count = std::min(slices.at_once, slices.count - begin);
    for_each_unit(threads, together ? count * s.leaves * strips : 0, [&](std::int64_t unit, int thread) {
      const std::int64_t number = unit / (s.leaves * strips);
      transpose(slice_of(jobs, s, slices, begin + number), number, thread, unit % (s.leaves * strips));
    });
    for_each_unit(threads, count * slices.rows.pieces() * slices.parts, [&](std::int64_t unit, int thread) {
      const std::int64_t number = unit / slices.parts / slices.rows.pieces();
      const Slice slice = slice_of(jobs, s, slices, begin + number);
      const std::int64_t row = slices.rows.begin(unit / slices.parts % slices.rows.pieces());
      const std::int64_t part = unit % slices.parts;
      if (row >= slice.columns) return;
      for (std::int64_t i = 0; slices.own && i < s.leaves * strips; ++i) transpose(slice, number, thread, i);
      const std::int64_t end = (part + 1) * slices.out.pieces() / slices.parts;
      for (std::int64_t piece = part * slices.out.pieces() / slices.parts; piece < end; ++piece)
        make_tile(slice, number, thread, row, piece);
    });
  }
}

}  // namespace

void weight_gradients(std::span<const WeightGradient> jobs, const WeightGradientShape& shape, int threads,
                      Workspace& workspace) {
  (shape.in * shape.out <= kSmallWeights ? by_rows : by_slices)(jobs, shape, threads, workspace);
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
