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

/// A piece of one expert's gradient: pieces `row` of the rows and `column` of the columns.
struct Tile {
  const WeightGradient& job;
  std::int64_t expert, row, column;
};

/// Wide weights: cut in tiles, each summed over all rows of a leaf at once and over the leaves in order.
void by_tiles(std::span<const WeightGradient> jobs, const WeightGradientShape& s, int threads, Workspace& workspace) {
  Cut in = cut_evenly(s.in, kTileIn, kStrip);
  const Cut out = cut_evenly(s.out, kTileOut, kStrip);
  const std::int64_t blocks = static_cast<std::int64_t>(jobs.size()) * s.experts;
  while (threads > 1 && blocks * in.pieces() * out.pieces() < kUnitsOfThread * threads && in.piece > kLeastTile)
    in = cut_evenly(s.in, in.piece / 2, kStrip);
  const std::int64_t tiles = in.pieces() * out.pieces();
  const std::int64_t largest = aligned_floats(in.piece * out.piece);
  // One leaf's gradient is written where it belongs.
  const std::int64_t levels = s.leaves > 1 ? LeafCounter::levels(s.leaves) : 0;
  const std::int64_t copies = aligned_floats(column_product_scratch(s.way, in.piece, out.piece, s.rows));
  const std::int64_t per_thread = copies + levels * (largest + aligned_floats(out.piece));
  float* const scratch = workspace.floats(threads * per_thread);
  // A gradient that no cache holds until the optimizer comes is written past them.
  const bool stream = s.leaves == 1 && blocks * s.in * s.out * 4 > kStreamedBytes;
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
    p.stream = stream;
    return p;
  };
  for_each_unit(threads, blocks * tiles, [&](std::int64_t unit, int thread) {
    const Tile tile = tile_of(unit);
    const std::int64_t height = in.length(tile.row);
    const std::int64_t width = out.length(tile.column);
    const std::int64_t column = tile.expert * s.out + out.begin(tile.column);
    float* const copy = scratch + thread * per_thread;
    float* const to = tile.job.dw + (tile.expert * s.in + in.begin(tile.row)) * s.out + out.begin(tile.column);
    float* const biases_to = tile.row == 0 && tile.job.db != nullptr ? tile.job.db + column : nullptr;
    Ahead later;  // what this thread will probably do next
    add_first_block(product_of(tile_of(std::min(unit + threads, blocks * tiles - 1)), 0, nullptr, s.out), later);
    const auto leaf_gradient = [&](std::int64_t leaf, float* dw, std::int64_t stride, float* db) {
      ColumnProduct p = product_of(tile, leaf, dw, stride);
      p.sums = db;
      p.scratch = copy;
      p.later = leaf + 1 == s.leaves ? &later : nullptr;
      multiply(p);
    };
    if (s.leaves == 1) return leaf_gradient(0, to, s.out, biases_to);
    float* const dw = copy + copies;
    float* const db = dw + levels * largest;
    LeafCounter weights(dw, height * width);
    LeafCounter biases(db, width);
    for (std::int64_t leaf = 0; leaf < s.leaves; ++leaf) {
      leaf_gradient(leaf, weights.next(), width, biases_to != nullptr ? biases.next() : nullptr);
      weights.add();
      if (biases_to != nullptr) biases.add();
    }
    for (std::int64_t i = 0; i < height; ++i) std::copy_n(dw + i * width, width, to + i * s.out);
    if (biases_to != nullptr) std::copy_n(db, width, biases_to);
  });
}

}  // namespace

void weight_gradients(std::span<const WeightGradient> jobs, const WeightGradientShape& shape, int threads,
                      Workspace& workspace) {
  (shape.in * shape.out <= kSmallWeights ? by_rows : by_tiles)(jobs, shape, threads, workspace);
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
