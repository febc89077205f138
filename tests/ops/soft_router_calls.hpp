#pragma once
// Calls of the weights of Soft MoE, forward and backward, for the tests of the back ends.

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {

struct SoftSizes {
  std::int64_t leaves, groups, tokens, width, slots;
};

struct SoftInputs {
  OwnedTensor x, mu, scale, noise, valid, ddispatch, dcombine, dresidual;
};
inline SoftInputs soft_inputs(Dtype real, const SoftSizes& s) {
  const Shape x{s.leaves, s.groups, s.tokens, s.width}, w{s.leaves, s.groups, s.tokens, s.slots};
  OwnedTensor scale(real, {1}, {1.75});
  OwnedTensor valid(Dtype::u8, {s.leaves, s.groups, s.tokens});
  for (std::int64_t i = 0; i < valid.elements(); ++i)
    valid.set(i, (s.groups > 1 && i < s.tokens) || i % 3 == 1 ? 0 : 1);  // and a group of nothing but padding
  return {random_tensor(real, x, 1),
          random_tensor(real, {s.width, s.slots}, 2),
          scale,
          random_tensor(real, w, 3),
          valid,
          random_tensor(real, w, 4),
          random_tensor(real, w, 5),
          random_tensor(real, x, 6)};
}

struct SoftOptions {
  bool noise = true, masked = false, residual = false, in_place = false;
};

/// x_rnorm, mu_rnorm, dispatch, combine, dx, dmu, dscale
inline std::vector<OwnedTensor> run_soft_router(Ops& ops, const SoftInputs& in, const SoftOptions& o) {
  const Dtype real = ops.real();
  const Shape &x = in.x.shape(), &w = in.ddispatch.shape();
  OwnedTensor x_rnorm(real, {x[0], x[1], x[2]}), mu_rnorm(real, {w[3]}), dispatch(real, w), combine(real, w);
  SoftRouterForward forward{.x = in.x,
                            .mu = in.mu,
                            .scale = in.scale,
                            .noise = {},
                            .noise_std = 0.3,
                            .valid = {},
                            .x_rnorm = x_rnorm,
                            .mu_rnorm = mu_rnorm,
                            .dispatch = dispatch,
                            .combine = combine};
  if (o.noise) forward.noise = in.noise;
  if (o.masked) forward.valid = in.valid;
  ops.soft_router_forward(forward);
  OwnedTensor dlogits = o.in_place ? in.ddispatch : OwnedTensor(real, w);
  OwnedTensor dx = o.in_place ? in.dresidual : OwnedTensor(real, x);
  OwnedTensor dmu(real, in.mu.shape()), dscale(real, {1});
  SoftRouterBackward backward{.ddispatch = in.ddispatch,
                              .dcombine = in.dcombine,
                              .x = in.x,
                              .mu = in.mu,
                              .scale = in.scale,
                              .x_rnorm = x_rnorm,
                              .mu_rnorm = mu_rnorm,
                              .dispatch = dispatch,
                              .combine = combine,
                              .dlogits = dlogits,
                              .dresidual = {},
                              .dx = dx,
                              .dmu = dmu,
                              .dscale = dscale};
  if (o.residual) backward.dresidual = in.dresidual;
  if (o.in_place) backward.ddispatch = backward.dlogits, backward.dresidual = backward.dx;
  ops.soft_router_backward(backward);
  return {x_rnorm, mu_rnorm, dispatch, combine, dx, dmu, dscale};
}

}  // namespace vitrail::testing
