// Linear layers and the projections of the attention.

#include <algorithm>
#include <array>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/weight_gradient.hpp"

namespace vitrail::cpu {

namespace {

/// The panels of all blocks: unit = (leaf * E + expert) * panels + panel.
struct Panels {
  std::int64_t blocks;
  std::int64_t experts;
  Cut cut;
  [[nodiscard]] std::int64_t units() const { return blocks * cut.pieces(); }
  /// The panel's first row, counted over the whole tensor.
  [[nodiscard]] std::int64_t first(std::int64_t unit) const {
    return unit / cut.pieces() * cut.count + cut.begin(unit % cut.pieces());
  }
  [[nodiscard]] std::int64_t rows(std::int64_t unit) const { return cut.length(unit % cut.pieces()); }
  [[nodiscard]] std::int64_t expert(std::int64_t unit) const { return unit / cut.pieces() % experts; }
};

/// Element `offset` of a tensor, nullptr if it was left out.
const float* at(const ConstTensor& tensor, std::int64_t offset) {
  return tensor ? tensor.as<float>() + offset : nullptr;
}

}  // namespace

void CpuOps::run(const LinearForward& a) {
  const std::int64_t in = a.x.shape[3];
  const std::int64_t out = a.w.shape[2];
  const Panels panels{a.x.shape[0] * a.x.shape[1], a.x.shape[1], row_panels(a.x.shape[2], in * out)};
  const float* const x = a.x.as<float>();
  const float* const w = a.w.as<float>();
  float* const y = a.y.as<float>();
  const bool starts = a.b || a.residual;
  const Into into = starts ? Into::add : Into::overwrite;
  Gemm& gemm = a.exact ? exact_gemm_ : gemm_;
  const std::int64_t scratch = gemm.scratch(panels.cut, whole(out), whole(in), {nullptr, in}, {nullptr, out}, into);
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, panels.units(), [&](std::int64_t unit, int thread) {
    const std::int64_t first = panels.first(unit);
    const std::int64_t rows = panels.rows(unit);
    const std::int64_t expert = panels.expert(unit);
    if (starts) start_rows(at(a.b, expert * out), at(a.residual, first * out), y + first * out, rows, out);
    gemm(rows, out, in, {x + first * in, in}, {w + expert * in * out, out}, into, y + first * out,
         scratches + thread * scratch);
  });
}

void CpuOps::run(const LinearBackward& a) {
  const std::int64_t in = a.x.shape[3];
  const std::int64_t out = a.w.shape[2];
  const Panels panels{a.x.shape[0] * a.x.shape[1], a.x.shape[1], row_panels(a.x.shape[2], in * out)};
  const float* const dy = a.dy.as<float>();
  const float* const w = a.w.as<float>();
  Gemm& gemm = a.exact ? exact_gemm_ : gemm_;
  if (a.dx) {
    float* const dx = a.dx.as<float>();
    const Into into = a.dresidual ? Into::add : Into::overwrite;
    const std::int64_t scratch =
        gemm.scratch(panels.cut, whole(in), whole(out), {nullptr, out}, {nullptr, out, true}, into);
    float* const scratches = workspace_.floats(threads_ * scratch);
    for_each_unit(threads_, panels.units(), [&](std::int64_t unit, int thread) {
      const std::int64_t first = panels.first(unit);
      const std::int64_t rows = panels.rows(unit);
      if (a.dresidual) start_rows(nullptr, at(a.dresidual, first * in), dx + first * in, rows, in);
      gemm(rows, in, out, {dy + first * out, out}, {w + panels.expert(unit) * in * out, out, true}, into,
           dx + first * in, scratches + thread * scratch);
    });
  }
  const WeightGradient job{a.x.as<float>(), dy, a.dw.as<float>(), a.db ? a.db.as<float>() : nullptr};
  weight_gradients({&job, 1}, {a.x.shape[0], a.x.shape[1], a.x.shape[2], in, out}, threads_, workspace_, gemm);
}

void CpuOps::run(const QkvForward& a) {
  const std::int64_t in = a.wq.shape[0];
  const std::int64_t out = a.wq.shape[1];
  const Panels panels{a.x.shape[0], 1, row_panels(a.x.shape[1], in * out)};
  const std::array<const float*, 3> w{a.wq.as<float>(), a.wk.as<float>(), a.wv.as<float>()};
  const std::array<const float*, 3> b{a.bq.as<float>(), a.bk.as<float>(), a.bv.as<float>()};
  const std::array<float*, 3> y{a.q.as<float>(), a.k.as<float>(), a.v.as<float>()};
  const std::int64_t scratch =
      gemm_.scratch(panels.cut, whole(out), whole(in), {nullptr, in}, {nullptr, out}, Into::add);
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, panels.units(), [&](std::int64_t unit, int thread) {
    const std::int64_t first = panels.first(unit);
    const std::int64_t rows = panels.rows(unit);
    for (std::size_t i = 0; i < 3; ++i) {
      start_rows(b[i], nullptr, y[i] + first * out, rows, out);
      gemm_(rows, out, in, {at(a.x, first * in), in}, {w[i], out}, Into::add, y[i] + first * out,
            scratches + thread * scratch);
    }
  });
}

void CpuOps::run(const QkvBackward& a) {
  const std::int64_t in = a.wq.shape[0];
  const std::int64_t out = a.wq.shape[1];
  const Panels panels{a.x.shape[0], 1, row_panels(a.x.shape[1], in * out)};
  const std::array<const float*, 3> w{a.wq.as<float>(), a.wk.as<float>(), a.wv.as<float>()};
  const std::array<const float*, 3> dy{a.dq.as<float>(), a.dk.as<float>(), a.dv.as<float>()};
  float* const dx = a.dx.as<float>();
  const auto scratch_of = [&](Into into) {
    return gemm_.scratch(panels.cut, whole(in), whole(out), {nullptr, out}, {nullptr, out, true}, into);
  };
  const std::int64_t scratch = std::max(scratch_of(Into::overwrite), scratch_of(Into::add));
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, panels.units(), [&](std::int64_t unit, int thread) {
    const std::int64_t first = panels.first(unit);
    for (std::size_t i = 0; i < 3; ++i) {
      gemm_(panels.rows(unit), in, out, {dy[i] + first * out, out}, {w[i], out, true},
            i == 0 ? Into::overwrite : Into::add, dx + first * in, scratches + thread * scratch);
    }
  });
  const float* const x = a.x.as<float>();
  const std::array<WeightGradient, 3> jobs{{{x, dy[0], a.dwq.as<float>(), a.dbq.as<float>()},
                                            {x, dy[1], a.dwk.as<float>(), a.dbk.as<float>()},
                                            {x, dy[2], a.dwv.as<float>(), a.dbv.as<float>()}}};
  weight_gradients(jobs, {a.x.shape[0], 1, a.x.shape[1], in, out}, threads_, workspace_, gemm_);
}

}  // namespace vitrail::cpu
