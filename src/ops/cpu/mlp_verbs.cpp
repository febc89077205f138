// The MLP: both products and the GELU of a panel of rows while it is in cache.

#include <algorithm>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/weight_gradient.hpp"

namespace vitrail::cpu {

namespace {

struct Sizes {
  std::int64_t leaves, experts, rows, width, hidden;
  [[nodiscard]] std::int64_t weights() const { return width * hidden; }
  [[nodiscard]] std::int64_t blocks() const { return leaves * experts; }
};
template <class Arguments>
Sizes sizes_of(const Arguments& a) {
  return {a.x.shape[0], a.x.shape[1], a.x.shape[2], a.w1.shape[1], a.w1.shape[2]};
}

/// Row `row` of a tensor of rows of length n, nullptr if it was left out.
const float* row_of(const ConstTensor& tensor, std::int64_t row, std::int64_t n) {
  return tensor ? tensor.as<float>() + row * n : nullptr;
}

/// `rows` rows of an expert, from row `first` of the whole tensors, and where their h and du go.
struct Panel {
  std::int64_t expert, first, rows;
  float* h;     // [rows hidden]
  float* du;    // [rows hidden]
  float* copy;  // scratch of the products
};

/// Scratch of input_gradients for the panels of one cut.
std::int64_t scratch_of_inputs(Gemm& gemm, const Sizes& s, const Cut& rows) {
  const Operand w1{nullptr, s.hidden, true};
  const Operand w2{nullptr, s.width, true};
  return std::max(gemm.scratch(rows, whole(s.hidden), whole(s.width), {nullptr, s.width}, w2, Into::overwrite),
                  gemm.scratch(rows, whole(s.width), whole(s.hidden), {nullptr, s.hidden}, w1, Into::overwrite));
}
/// h, du and dx of a panel.
void input_gradients(const MlpBackward& a, const Sizes& s, const Gemm& gemm, const Panel& p) {
  const float* const w1 = a.w1.as<float>() + p.expert * s.weights();
  const float* const w2 = a.w2.as<float>() + p.expert * s.weights();
  const float* const dy = a.dy.as<float>() + p.first * s.width;
  gemm(p.rows, s.hidden, s.width, {dy, s.width}, {w2, s.width, true}, Into::overwrite, p.du, p.copy);
  gelu_backward(a.u.as<float>() + p.first * s.hidden, row_of(a.hidden_mask, p.first, s.hidden), p.h, p.du,
                p.rows * s.hidden);
  gemm(p.rows, s.width, s.hidden, {p.du, s.hidden}, {w1, s.hidden, true}, Into::overwrite,
       a.dx.as<float>() + p.first * s.width, p.copy);
}

/// Where the four parameter gradients stand in a partial sum.
struct Partial {
  explicit Partial(const Sizes& s)
      : dw2(aligned_floats(s.weights())),
        db1(2 * dw2),
        db2(db1 + aligned_floats(s.hidden)),
        end(db2 + aligned_floats(s.width)) {}
  std::int64_t dw1 = 0;
  std::int64_t dw2, db1, db2, end;
};

/// Scratch of add_parameter_gradients for the panels of one cut.
std::int64_t scratch_of_parameters(Gemm& gemm, const Sizes& s, const Cut& rows) {
  const Operand x{nullptr, s.width, true};
  const Operand h{nullptr, s.hidden, true};
  std::int64_t most = 0;
  for (const Into into : {Into::overwrite, Into::add}) {
    most = std::max({most, gemm.scratch(whole(s.width), whole(s.hidden), rows, x, {nullptr, s.hidden}, into),
                     gemm.scratch(whole(s.hidden), whole(s.width), rows, h, {nullptr, s.width}, into)});
  }
  return most;
}
/// What a panel adds to the parameter gradients of its piece of rows.
void add_parameter_gradients(const MlpBackward& a, const Sizes& s, const Gemm& gemm, const Panel& p, Into into,
                             float* partial) {
  const Partial at(s);
  const float* const x = a.x.as<float>() + p.first * s.width;
  const float* const dy = a.dy.as<float>() + p.first * s.width;
  gemm(s.width, s.hidden, p.rows, {x, s.width, true}, {p.du, s.hidden}, into, partial + at.dw1, p.copy);
  gemm(s.hidden, s.width, p.rows, {p.h, s.hidden, true}, {dy, s.width}, into, partial + at.dw2, p.copy);
  add_column_sums(p.du, s.hidden, p.rows, s.hidden, partial + at.db1);
  add_column_sums(dy, s.width, p.rows, s.width, partial + at.db2);
}

/// Small experts: everything that a panel needs and gives stays in cache; h and du are not written to memory. A unit of
/// work is a piece of the rows of one (expert, leaf), so large that its partial sum is small beside it.
void backward_at_once(const MlpBackward& a, const Sizes& s, int threads, Workspace& workspace, Gemm& gemm) {
  const Cut pieces = pieces_of_rows(s.rows);
  const Cut panels = row_panels(pieces.piece, s.weights());
  const std::int64_t panel = aligned_floats(panels.piece * s.hidden);
  std::int64_t copies = 0;
  for (const std::int64_t rows : {pieces.length(0), pieces.length(pieces.pieces() - 1)}) {
    const Cut cut{rows, panels.piece};
    copies = std::max({copies, scratch_of_inputs(gemm, s, cut), scratch_of_parameters(gemm, s, cut)});
  }
  const std::int64_t per_thread = 2 * panel + copies;
  const Partial at(s);
  const std::int64_t units = s.blocks() * pieces.pieces();
  float* const scratches = workspace.floats(threads * per_thread + units * at.end);
  float* const partials = scratches + threads * per_thread;
  for_each_unit(threads, units, [&](std::int64_t unit, int thread) {
    const std::int64_t expert = unit / (s.leaves * pieces.pieces());
    const std::int64_t leaf = unit / pieces.pieces() % s.leaves;
    const std::int64_t piece = unit % pieces.pieces();
    const std::int64_t first = (leaf * s.experts + expert) * s.rows + pieces.begin(piece);
    const std::int64_t rows = pieces.length(piece);
    float* const scratch = scratches + thread * per_thread;
    float* const partial = partials + unit * at.end;
    std::fill(partial + at.db1, partial + at.end, 0.0F);
    for (std::int64_t i = 0; i == 0 || i < rows; i += panels.piece) {
      const Panel p{expert, first + i, std::min(panels.piece, rows - i), scratch, scratch + panel, scratch + 2 * panel};
      input_gradients(a, s, gemm, p);
      add_parameter_gradients(a, s, gemm, p, i == 0 ? Into::overwrite : Into::add, partial);
    }
  });
  const std::int64_t longest = std::max({s.weights(), s.hidden, s.width});
  tree_sums(4 * s.experts, longest, s.leaves, pieces.pieces(), threads, [&](std::int64_t i) -> PartialSum {
    const std::int64_t expert = i / 4;
    float* const from = partials + expert * s.leaves * pieces.pieces() * at.end;
    switch (i % 4) {
      case 0:
        return {from + at.dw1, at.end, s.weights(), a.dw1.as<float>() + expert * s.weights()};
      case 1:
        return {from + at.dw2, at.end, s.weights(), a.dw2.as<float>() + expert * s.weights()};
      case 2:
        return {from + at.db1, at.end, s.hidden, a.db1.as<float>() + expert * s.hidden};
      default:
        return {from + at.db2, at.end, s.width, a.db2.as<float>() + expert * s.width};
    }
  });
}

/// Large experts: h and du go through memory, so that the weight gradients are products over all rows of a leaf.
void backward_in_two_passes(const MlpBackward& a, const Sizes& s, int threads, Workspace& workspace, Gemm& gemm) {
  const Cut cut = row_panels(s.rows, s.weights());
  const std::int64_t scratch = scratch_of_inputs(gemm, s, cut);
  float* const scratches = workspace.floats(threads * scratch);
  for_each_unit(threads, s.blocks() * cut.pieces(), [&](std::int64_t unit, int thread) {
    const std::int64_t block = unit / cut.pieces();
    const std::int64_t first = block * s.rows + cut.begin(unit % cut.pieces());
    input_gradients(a, s, gemm,
                    {block % s.experts, first, cut.length(unit % cut.pieces()), a.h.as<float>() + first * s.hidden,
                     a.du.as<float>() + first * s.hidden, scratches + thread * scratch});
  });
  const WeightGradient first{a.x.as<float>(), a.du.as<float>(), a.dw1.as<float>(), a.db1.as<float>()};
  weight_gradients({&first, 1}, {s.leaves, s.experts, s.rows, s.width, s.hidden}, threads, workspace, gemm);
  const WeightGradient second{a.h.as<float>(), a.dy.as<float>(), a.dw2.as<float>(), a.db2.as<float>()};
  weight_gradients({&second, 1}, {s.leaves, s.experts, s.rows, s.hidden, s.width}, threads, workspace, gemm);
}

}  // namespace

void CpuOps::run(const MlpForward& a) {
  const Sizes s = sizes_of(a);
  const Cut cut = row_panels(s.rows, s.weights());
  // h lives in a panel of each thread: it stays in cache and is not written to memory.
  const std::int64_t panel = aligned_floats(cut.piece * s.hidden);
  const Operand narrow{nullptr, s.width}, wide{nullptr, s.hidden};
  const std::int64_t copies =
      std::max(gemm_.scratch(cut, whole(s.hidden), whole(s.width), narrow, wide, Into::overwrite),
               gemm_.scratch(cut, whole(s.width), whole(s.hidden), wide, narrow, Into::add));
  const std::int64_t per_thread = panel + copies;
  float* const scratches = workspace_.floats(threads_ * per_thread);
  for_each_unit(threads_, s.blocks() * cut.pieces(), [&](std::int64_t unit, int thread) {
    const std::int64_t block = unit / cut.pieces();
    const std::int64_t expert = block % s.experts;
    const std::int64_t first = block * s.rows + cut.begin(unit % cut.pieces());
    const std::int64_t rows = cut.length(unit % cut.pieces());
    float* const u = a.u.as<float>() + first * s.hidden;
    float* const h = scratches + thread * per_thread;
    float* const copy = h + panel;
    float* const y = a.y.as<float>() + first * s.width;
    gemm_(rows, s.hidden, s.width, {a.x.as<float>() + first * s.width, s.width},
          {a.w1.as<float>() + expert * s.weights(), s.hidden}, Into::overwrite, u, copy);
    bias_gelu(a.b1.as<float>() + expert * s.hidden, row_of(a.hidden_mask, first, s.hidden), u, h, rows, s.hidden);
    start_rows(a.b2.as<float>() + expert * s.width, row_of(a.residual, first, s.width), y, rows, s.width);
    gemm_(rows, s.width, s.hidden, {h, s.hidden}, {a.w2.as<float>() + expert * s.weights(), s.width}, Into::add, y,
          copy);
  });
}

void CpuOps::run(const MlpBackward& a) {
  const Sizes s = sizes_of(a);
  (s.weights() <= kSmallWeights ? backward_at_once : backward_in_two_passes)(a, s, threads_, workspace_, gemm_);
}

}  // namespace vitrail::cpu
