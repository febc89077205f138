#include "ops/cpu/weight_gradient.hpp"

#include <algorithm>
#include <bit>

#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kMostRowsOfPiece = 512;
constexpr std::int64_t kTileIn = 256;
constexpr std::int64_t kTileOut = 512;

/// p[0] = tree over p[0], p[step], p[2 step] ... (count of them), on n elements each.
void tree_rows(float* p, std::int64_t step, std::int64_t count, std::int64_t n) {
  for (std::int64_t width = 1; width < count; width *= 2) {
    for (std::int64_t i = 0; i + width < count; i += 2 * width) add_into(p + (i + width) * step, p + i * step, n);
  }
}

/// Narrow weights: too little output to cut, so the rows are cut, in fixed pieces.
void by_rows(std::span<const WeightGradient> jobs, const WeightGradientShape& s, int threads, Workspace& workspace,
             Gemm& gemm) {
  const Cut cut = pieces_of_rows(s.rows);
  const std::int64_t pieces = cut.pieces();
  const std::int64_t weights = s.in * s.out;
  const std::int64_t biases = aligned_floats(weights);  // where they stand in a partial
  const std::int64_t partial = biases + aligned_floats(s.out);
  const std::int64_t blocks = static_cast<std::int64_t>(jobs.size()) * s.experts;
  const std::int64_t scratch =
      gemm.scratch(whole(s.in), whole(s.out), cut, {nullptr, s.in, true}, {nullptr, s.out}, Into::overwrite);
  float* const scratches = workspace.floats(threads * scratch + blocks * s.leaves * pieces * partial);
  float* const partials = scratches + threads * scratch;
  for_each_unit(threads, blocks * s.leaves * pieces, [&](std::int64_t unit, int thread) {
    const std::int64_t block = unit / (s.leaves * pieces);  // (job, expert)
    const WeightGradient& job = jobs[static_cast<std::size_t>(block / s.experts)];
    const std::int64_t leaf = unit / pieces % s.leaves;
    const std::int64_t rows = cut.length(unit % pieces);
    const std::int64_t first = (leaf * s.experts + block % s.experts) * s.rows + cut.begin(unit % pieces);
    float* const dw = partials + unit * partial;
    const float* const dy = job.dy + first * s.out;
    gemm(s.in, s.out, rows, {job.x + first * s.in, s.in, true}, {dy, s.out}, Into::overwrite, dw,
         scratches + thread * scratch);
    if (job.db != nullptr) column_sums(dy, s.out, rows, s.out, dw + biases);
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
  static std::int64_t levels(std::int64_t leaves) { return std::bit_width(static_cast<std::uint64_t>(leaves)); }

 private:
  float* levels_;
  std::int64_t n_;
  std::int64_t used_ = 0;
  std::int64_t leaves_ = 0;
};

/// Wide weights: cut in tiles, each summed over all rows of a leaf at once and over the leaves in order.
void by_tiles(std::span<const WeightGradient> jobs, const WeightGradientShape& s, int threads, Workspace& workspace,
              Gemm& gemm) {
  const Cut in = cut_evenly(s.in, kTileIn);
  const Cut out = cut_evenly(s.out, kTileOut);
  const std::int64_t tiles = in.pieces() * out.pieces();
  const std::int64_t largest = aligned_floats(in.piece * out.piece);
  const std::int64_t levels = LeafCounter::levels(s.leaves);
  const std::int64_t copies =
      gemm.scratch(in, out, whole(s.rows), {nullptr, s.in, true}, {nullptr, s.out}, Into::overwrite);
  const std::int64_t per_thread = copies + levels * (largest + aligned_floats(out.piece));
  float* const scratch = workspace.floats(threads * per_thread);
  const auto units = static_cast<std::int64_t>(jobs.size()) * s.experts * tiles;
  for_each_unit(threads, units, [&](std::int64_t unit, int thread) {
    const WeightGradient& job = jobs[static_cast<std::size_t>(unit / (s.experts * tiles))];
    const std::int64_t expert = unit / tiles % s.experts;
    const std::int64_t row = unit % tiles / out.pieces();
    const std::int64_t column = unit % out.pieces();
    const std::int64_t height = in.length(row);
    const std::int64_t width = out.length(column);
    float* const copy = scratch + thread * per_thread;
    float* const dw = copy + copies;
    float* const db = dw + levels * largest;
    const bool bias = row == 0 && job.db != nullptr;
    LeafCounter weights(dw, height * width);
    LeafCounter biases(db, width);
    for (std::int64_t leaf = 0; leaf < s.leaves; ++leaf) {
      const std::int64_t first = (leaf * s.experts + expert) * s.rows;
      const float* const dy = job.dy + first * s.out + out.begin(column);
      gemm(height, width, s.rows, {job.x + first * s.in + in.begin(row), s.in, true}, {dy, s.out}, Into::overwrite,
           weights.next(), copy);
      weights.add();
      if (!bias) continue;
      column_sums(dy, s.out, s.rows, width, biases.next());
      biases.add();
    }
    float* const to = job.dw + (expert * s.in + in.begin(row)) * s.out + out.begin(column);
    for (std::int64_t i = 0; i < height; ++i) std::copy_n(dw + i * width, width, to + i * s.out);
    if (bias) std::copy_n(db, width, job.db + expert * s.out + out.begin(column));
  });
}

}  // namespace

void weight_gradients(std::span<const WeightGradient> jobs, const WeightGradientShape& shape, int threads,
                      Workspace& workspace, Gemm& gemm) {
  (shape.in * shape.out <= kSmallWeights ? by_rows : by_tiles)(jobs, shape, threads, workspace, gemm);
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
