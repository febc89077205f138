// Soft MoE: the weights between tokens and slots, and the two mixtures. The unit of work is a group; where a product
// has the rows of many, a panel or piece of them. The router's own products are f32 in every precision.

#include <algorithm>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/routing_kernels.hpp"
#include "ops/cpu/soft_kernels.hpp"
#include "ops/cpu/weight_gradient.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kColumns = 64;  // of mu, a unit of work

/// dlogits of all groups.
void logits_gradients(const SoftRouterBackward& a, int threads, Workspace& workspace) {
  const std::int64_t tokens = a.x.shape[2];
  const std::int64_t slots = a.mu.shape[1];
  const std::int64_t columns = aligned_floats(slots);
  float* const scratches = workspace.floats(threads * columns);
  for_each_unit(threads, a.x.shape[0] * a.x.shape[1], [&](std::int64_t group, int thread) {
    const std::int64_t first = group * tokens * slots;
    soft_weights_backward({.ddispatch = a.ddispatch.as<float>() + first,
                           .dcombine = a.dcombine.as<float>() + first,
                           .dispatch = a.dispatch.as<float>() + first,
                           .combine = a.combine.as<float>() + first,
                           .x_rnorm = a.x_rnorm.as<float>() + group * tokens,
                           .mu_rnorm = a.mu_rnorm.as<float>(),
                           .columns = scratches + thread * columns,
                           .dlogits = a.dlogits.as<float>() + first,
                           .tokens = tokens,
                           .slots = slots});
  });
}

/// dx, by panels of the rows of a group.
void input_gradients(const SoftRouterBackward& a, int threads, Workspace& workspace) {
  const std::int64_t tokens = a.x.shape[2];
  const std::int64_t width = a.mu.shape[0];
  const std::int64_t slots = a.mu.shape[1];
  const Cut cut = row_panels(tokens, width * slots);
  const std::int64_t panel = aligned_floats(cut.piece * width);
  const std::int64_t scratch = panel + gemm_scratch(cut.piece, width, slots, {nullptr, slots}, {nullptr, slots, true});
  float* const scratches = workspace.floats(threads * scratch);
  for_each_unit(threads, a.x.shape[0] * a.x.shape[1] * cut.pieces(), [&](std::int64_t unit, int thread) {
    const std::int64_t first = unit / cut.pieces() * tokens + cut.begin(unit % cut.pieces());
    const std::int64_t rows = cut.length(unit % cut.pieces());
    float* const d = scratches + thread * scratch;
    gemm(rows, width, slots, {a.dlogits.as<float>() + first * slots, slots}, {a.mu.as<float>(), slots, true},
         Into::overwrite, d, width, d + panel);
    soft_input_backward({.d = d,
                         .x = a.x.as<float>() + first * width,
                         .x_rnorm = a.x_rnorm.as<float>() + first,
                         .dresidual = a.dresidual ? a.dresidual.as<float>() + first * width : nullptr,
                         .dx = a.dx.as<float>() + first * width,
                         .rows = rows,
                         .n = width,
                         .scale = a.scale.as<float>()[0]});
  });
}

/// dmu and dscale. Each leaf has gradients of its own before leaves are added, because rounding does not commute with
/// what follows the product: a leaf's share must not depend on which leaves come with it.
void parameter_gradients(const SoftRouterBackward& a, int threads, Workspace& workspace) {
  const std::int64_t leaves = a.x.shape[0];
  const std::int64_t leaf_rows = a.x.shape[1] * a.x.shape[2];
  const std::int64_t width = a.mu.shape[0];
  const std::int64_t slots = a.mu.shape[1];
  const std::int64_t weights = width * slots;
  const Cut pieces = pieces_of_rows(leaf_rows);
  const std::int64_t partial = aligned_floats(weights);
  const std::int64_t of_leaf = partial + aligned_floats(1);  // dmu, then dscale
  const std::int64_t copies =
      aligned_floats(gemm_scratch(width, slots, pieces.piece, {nullptr, width, true}, {nullptr, slots}));
  const std::int64_t scratch = std::max(copies, aligned_floats(slots));
  float* const scratches = workspace.floats(threads * scratch + leaves * pieces.pieces() * partial + leaves * of_leaf);
  float* const partials = scratches + threads * scratch;
  float* const gradients = partials + leaves * pieces.pieces() * partial;
  for_each_unit(threads, leaves * pieces.pieces(), [&](std::int64_t unit, int thread) {
    const std::int64_t first = unit / pieces.pieces() * leaf_rows + pieces.begin(unit % pieces.pieces());
    gemm(width, slots, pieces.length(unit % pieces.pieces()), {a.x.as<float>() + first * width, width, true},
         {a.dlogits.as<float>() + first * slots, slots}, Into::overwrite, partials + unit * partial, slots,
         scratches + thread * scratch);
  });
  tree_sums(leaves, weights, 1, pieces.pieces(), threads, [&](std::int64_t leaf) -> PartialSum {
    return {partials + leaf * pieces.pieces() * partial, partial, weights, gradients + leaf * of_leaf};
  });
  for_each_unit(threads, leaves, [&](std::int64_t leaf, int thread) {
    float* const dmu = gradients + leaf * of_leaf;
    dmu[partial] = soft_slots_backward({.mu = a.mu.as<float>(),
                                        .mu_rnorm = a.mu_rnorm.as<float>(),
                                        .columns = scratches + thread * scratch,
                                        .d = dmu,
                                        .width = width,
                                        .slots = slots,
                                        .scale = a.scale.as<float>()[0]});
  });
  tree_sums(2, weights, leaves, 1, threads, [&](std::int64_t i) -> PartialSum {
    if (i == 0) return {gradients, of_leaf, weights, a.dmu.as<float>()};
    return {gradients + partial, of_leaf, 1, a.dscale.as<float>()};
  });
}

}  // namespace

void CpuOps::run(const SoftRouterForward& a) {
  const std::int64_t tokens = a.x.shape[2];
  const std::int64_t width = a.mu.shape[0];
  const std::int64_t slots = a.mu.shape[1];
  const float* const mu = a.mu.as<float>();
  for_each_piece(threads_, slots, kColumns, [&](std::int64_t begin, std::int64_t end) {
    column_rnorms(mu + begin, slots, width, end - begin, a.mu_rnorm.as<float>() + begin);
  });
  const std::int64_t columns = aligned_floats(2 * slots);
  const std::int64_t scratch =
      columns + aligned_floats(gemm_scratch(tokens, slots, width, {nullptr, width}, {nullptr, slots}));
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, a.x.shape[0] * a.x.shape[1], [&](std::int64_t group, int thread) {
    const std::int64_t row = group * tokens;
    const float* const x = a.x.as<float>() + row * width;
    float* const combine = a.combine.as<float>() + row * slots;
    float* const mine = scratches + thread * scratch;
    row_rnorms(x, tokens, width, a.x_rnorm.as<float>() + row);
    gemm(tokens, slots, width, {x, width}, {mu, slots}, Into::overwrite, combine, slots, mine + columns);
    soft_weights({.x_rnorm = a.x_rnorm.as<float>() + row,
                  .mu_rnorm = a.mu_rnorm.as<float>(),
                  .noise = a.noise ? a.noise.as<float>() + row * slots : nullptr,
                  .valid = a.valid ? a.valid.as<std::uint8_t>() + row : nullptr,
                  .columns = mine,
                  .dispatch = a.dispatch.as<float>() + row * slots,
                  .combine = combine,
                  .tokens = tokens,
                  .slots = slots,
                  .scale = a.scale.as<float>()[0],
                  .sigma = static_cast<float>(a.noise_std)});
    softmax_rows(combine, nullptr, 0.0F, combine, tokens, slots);
  });
}

// With d = dz x_rnorm mu_rnorm in place of dz both products are with x and mu as they are:
//   dx = dresidual + scale (d mu^T - xh <xh, d mu^T>),  dmu = scale (x^T d - muh <muh, x^T d>),  dscale = <mu, x^T d>
void CpuOps::run(const SoftRouterBackward& a) {
  logits_gradients(a, threads_, workspace_);
  input_gradients(a, threads_, workspace_);
  parameter_gradients(a, threads_, workspace_);
}

void CpuOps::run(const MixTokensForward& a) {
  const std::int64_t tokens = a.x.shape[1];
  const std::int64_t width = a.x.shape[2];
  const std::int64_t slots = a.w.shape[2];
  const std::int64_t scratch = gemm_.scratch(whole(slots), whole(width), whole(tokens), {nullptr, slots, true},
                                             {nullptr, width}, Into::overwrite);
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, a.x.shape[0], [&](std::int64_t group, int thread) {
    gemm_(slots, width, tokens, {a.w.as<float>() + group * tokens * slots, slots, true},
          {a.x.as<float>() + group * tokens * width, width}, Into::overwrite, a.y.as<float>() + group * slots * width,
          scratches + thread * scratch);
  });
}

void CpuOps::run(const MixTokensBackward& a) {
  const std::int64_t tokens = a.x.shape[1];
  const std::int64_t width = a.x.shape[2];
  const std::int64_t slots = a.w.shape[2];
  const std::int64_t scratch = std::max(
      gemm_.scratch(whole(tokens), whole(slots), whole(width), {nullptr, width}, {nullptr, width, true},
                    Into::overwrite),
      gemm_.scratch(whole(tokens), whole(width), whole(slots), {nullptr, slots}, {nullptr, width}, Into::overwrite));
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, a.x.shape[0], [&](std::int64_t group, int thread) {
    const float* const dy = a.dy.as<float>() + group * slots * width;
    const std::int64_t pairs = group * tokens * slots;
    float* const mine = scratches + thread * scratch;
    gemm_(tokens, slots, width, {a.x.as<float>() + group * tokens * width, width}, {dy, width, true}, Into::overwrite,
          a.dw.as<float>() + pairs, mine);
    gemm_(tokens, width, slots, {a.w.as<float>() + pairs, slots}, {dy, width}, Into::overwrite,
          a.dx.as<float>() + group * tokens * width, mine);
  });
}

void CpuOps::run(const MixSlotsForward& a) {
  const std::int64_t tokens = a.w.shape[1];
  const std::int64_t slots = a.w.shape[2];
  const std::int64_t width = a.y.shape[2];
  const Into into = a.residual ? Into::add : Into::overwrite;
  const std::int64_t scratch =
      gemm_.scratch(whole(tokens), whole(width), whole(slots), {nullptr, slots}, {nullptr, width}, into);
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, a.w.shape[0], [&](std::int64_t group, int thread) {
    const std::int64_t first = group * tokens * width;
    float* const y = a.y.as<float>() + first;
    if (a.residual) start_rows(nullptr, a.residual.as<float>() + first, y, tokens, width);
    gemm_(tokens, width, slots, {a.w.as<float>() + group * tokens * slots, slots},
          {a.o.as<float>() + group * slots * width, width}, into, y, scratches + thread * scratch);
  });
}

void CpuOps::run(const MixSlotsBackward& a) {
  const std::int64_t tokens = a.w.shape[1];
  const std::int64_t slots = a.w.shape[2];
  const std::int64_t width = a.dy.shape[2];
  const std::int64_t scratch = std::max(gemm_.scratch(whole(tokens), whole(slots), whole(width), {nullptr, width},
                                                      {nullptr, width, true}, Into::overwrite),
                                        gemm_.scratch(whole(slots), whole(width), whole(tokens), {nullptr, slots, true},
                                                      {nullptr, width}, Into::overwrite));
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, a.w.shape[0], [&](std::int64_t group, int thread) {
    const float* const dy = a.dy.as<float>() + group * tokens * width;
    const std::int64_t pairs = group * tokens * slots;
    float* const mine = scratches + thread * scratch;
    gemm_(tokens, slots, width, {dy, width}, {a.o.as<float>() + group * slots * width, width, true}, Into::overwrite,
          a.dw.as<float>() + pairs, mine);
    gemm_(slots, width, tokens, {a.w.as<float>() + pairs, slots, true}, {dy, width}, Into::overwrite,
          a.d_o.as<float>() + group * slots * width, mine);
  });
}

}  // namespace vitrail::cpu
