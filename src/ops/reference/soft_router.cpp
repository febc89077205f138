// Soft MoE: weights between all tokens and all slots of a group, and the two mixtures that they make.

#include <algorithm>

#include "ops/reference/matrix.hpp"
#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

constexpr double kEpsilon = 1e-6;

// 1 / sqrt(sum of squares + 1e-6) of x[0], x[stride] ... x[(n-1) stride]
template <class T>
T reciprocal_norm(const T* x, std::int64_t n, std::int64_t stride) {
  T sum{};
  for (std::int64_t i = 0; i < n; ++i) sum += x[i * stride] * x[i * stride];
  return 1.0 / std::sqrt(sum + kEpsilon);
}

// p[s,r] = exp(z[s,r]) / sum over valid t of exp(z[t,r]) for valid s, else 0; z [S R], valid may be null
template <class T>
void softmax_over_tokens(const T* z, const std::uint8_t* valid, T* p, std::int64_t tokens, std::int64_t slots) {
  for (std::int64_t r = 0; r < slots; ++r) {
    std::vector<T> of_valid;
    for (std::int64_t s = 0; s < tokens; ++s)
      if (valid == nullptr || valid[s] != 0) of_valid.push_back(z[s * slots + r]);
    if (!of_valid.empty()) softmax(of_valid.data(), of_valid.data(), static_cast<std::int64_t>(of_valid.size()));
    auto next = of_valid.begin();
    for (std::int64_t s = 0; s < tokens; ++s) p[s * slots + r] = valid == nullptr || valid[s] != 0 ? *next++ : T{};
  }
}

// dz[i] += p[i] (dp[i] - sum over j of p[j] dp[j]) for i = 0, stride ... (n-1) stride, p = softmax(z)
template <class T>
void add_softmax_backward(const T* p, const T* dp, T* dz, std::int64_t n, std::int64_t stride) {
  T inner{};
  for (std::int64_t i = 0; i < n * stride; i += stride) inner += p[i] * dp[i];
  for (std::int64_t i = 0; i < n * stride; i += stride) dz[i] += p[i] * (dp[i] - inner);
}

// xh = x n, n = (sum of x^2 + eps)^(-1/2):  dx[i] = n (dxh[i] - xh[i] sum over j of xh[j] dxh[j]), entries as above
template <class T>
void normalize_backward(const T* xh, const T* dxh, T n, T* dx, std::int64_t count, std::int64_t stride) {
  T inner{};
  for (std::int64_t i = 0; i < count * stride; i += stride) inner += xh[i] * dxh[i];
  for (std::int64_t i = 0; i < count * stride; i += stride) dx[i] = n * (dxh[i] - xh[i] * inner);
}

// What the backward verb takes from mu and from a leaf.
template <class T>
struct Normalized {
  std::vector<T> mu;  // [D R]: mu mu_rnorm
  std::vector<T> x;   // [leaves groups S D]: x x_rnorm
};
template <class T>
Normalized<T> normalized(const SoftRouterBackward& a) {
  const std::int64_t width = a.mu.shape[0], slots = a.mu.shape[1];
  Normalized<T> n;
  for (std::int64_t i = 0; i < a.mu.elements(); ++i) n.mu.push_back(a.mu.as<T>()[i] * a.mu_rnorm.as<T>()[i % slots]);
  for (std::int64_t i = 0; i < a.x.elements(); ++i) n.x.push_back(a.x.as<T>()[i] * a.x_rnorm.as<T>()[i / width]);
  return n;
}

// dz [S R] of one group, by both softmaxes; dz may be ddispatch, which has the tensors' order of elements.
template <class T>
void logits_gradient(const SoftRouterBackward& a, std::int64_t group) {
  const std::int64_t tokens = a.x.shape[2], slots = a.mu.shape[1], first = group * tokens * slots;
  std::vector<T> dz(static_cast<std::size_t>(tokens * slots));
  for (std::int64_t r = 0; r < slots; ++r)
    add_softmax_backward(a.dispatch.as<T>() + first + r, a.ddispatch.as<T>() + first + r, dz.data() + r, tokens, slots);
  for (std::int64_t s = 0; s < tokens; ++s) {
    const std::int64_t row = first + s * slots;
    add_softmax_backward(a.combine.as<T>() + row, a.dcombine.as<T>() + row, dz.data() + s * slots, slots, 1);
  }
  std::copy(dz.begin(), dz.end(), a.dlogits.as<T>() + first);
}

}  // namespace

// x_rnorm = 1 / sqrt(sum over D of x^2 + 1e-6), mu_rnorm in the same way
// z = scale (x x_rnorm) (mu mu_rnorm) + sigma noise
// dispatch = softmax of z over the valid tokens of the group, 0 for the others;  combine = softmax of z over the slots
template <class T>
void soft_router_forward(const SoftRouterForward& a) {
  const std::int64_t groups = a.x.shape[0] * a.x.shape[1], tokens = a.x.shape[2];
  const std::int64_t width = a.mu.shape[0], slots = a.mu.shape[1];
  T *x_rnorm = a.x_rnorm.as<T>(), *mu_rnorm = a.mu_rnorm.as<T>();
  for (std::int64_t t = 0; t < groups * tokens; ++t) x_rnorm[t] = reciprocal_norm(a.x.as<T>() + t * width, width, 1);
  for (std::int64_t r = 0; r < slots; ++r) mu_rnorm[r] = reciprocal_norm(a.mu.as<T>() + r, width, slots);
  std::vector<T> z(static_cast<std::size_t>(tokens * slots));
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t first = g * tokens * slots;
    affine<T>(a.x.as<T>() + g * tokens * width, a.mu.as<T>(), nullptr, nullptr, z.data(), tokens, width, slots);
    for (std::int64_t i = 0; i < tokens * slots; ++i) {
      T& of_pair = z[static_cast<std::size_t>(i)];
      of_pair *= a.scale.as<T>()[0] * x_rnorm[g * tokens + i / slots] * mu_rnorm[i % slots];
      if (a.noise) of_pair += a.noise_std * a.noise.as<T>()[first + i];
    }
    const std::uint8_t* valid = a.valid ? a.valid.as<std::uint8_t>() + g * tokens : nullptr;
    softmax_over_tokens(z.data(), valid, a.dispatch.as<T>() + first, tokens, slots);
    for (std::int64_t s = 0; s < tokens; ++s)
      softmax(z.data() + s * slots, a.combine.as<T>() + first + s * slots, slots);
  }
}

// xh = x x_rnorm, muh = mu mu_rnorm, mh = scale muh;  dz = through both softmaxes
// dxh = dz mh^T;  dx = dresidual + x_rnorm (dxh - xh <xh, dxh>)
// of a leaf:  dmh = xh^T dz;  dscale = <muh, dmh>;  dmuh = scale dmh;  dmu = mu_rnorm (dmuh - muh <muh, dmuh over D>)
template <class T>
void soft_router_backward(const SoftRouterBackward& a) {
  const std::int64_t leaves = a.x.shape[0], tokens = a.x.shape[2];
  const std::int64_t rows = a.x.shape[1] * tokens, width = a.mu.shape[0], slots = a.mu.shape[1];  // rows: of a leaf
  const T scale = a.scale.as<T>()[0];
  const Normalized<T> n = normalized<T>(a);
  for (std::int64_t g = 0; g < leaves * a.x.shape[1]; ++g) logits_gradient<T>(a, g);
  const T* dz = a.dlogits.as<T>();

  std::vector<T> dxh(static_cast<std::size_t>(width)), dx(static_cast<std::size_t>(width));
  for (std::int64_t t = 0; t < leaves * rows; ++t) {
    times_transposed<T>(dz + t * slots, n.mu.data(), nullptr, dxh.data(), 1, width, slots);
    for (T& x : dxh) x *= scale;
    normalize_backward(n.x.data() + t * width, dxh.data(), a.x_rnorm.as<T>()[t], dx.data(), width, 1);
    for (std::int64_t c = 0; c < width; ++c)
      a.dx.as<T>()[t * width + c] =
          (a.dresidual ? a.dresidual.as<T>()[t * width + c] : T{}) + dx[static_cast<std::size_t>(c)];
  }

  // dmu and dscale of a leaf in one row
  std::vector<T> sum(static_cast<std::size_t>(width * slots + 1));
  std::vector<T> dmh(static_cast<std::size_t>(width * slots));
  sum_over_leaves(0, leaves, sum.data(), width * slots + 1, [&](std::int64_t leaf, T* out) {
    const std::int64_t row = leaf * rows;
    transposed_times(n.x.data() + row * width, dz + row * slots, dmh.data(), rows, width, slots);
    T dscale{};
    for (std::size_t i = 0; i < dmh.size(); ++i) dscale += n.mu[i] * dmh[i];
    for (T& d : dmh) d *= scale;  // dmuh
    for (std::int64_t r = 0; r < slots; ++r)
      normalize_backward(n.mu.data() + r, dmh.data() + r, a.mu_rnorm.as<T>()[r], out + r, width, slots);
    out[width * slots] = dscale;
  });
  std::copy(sum.begin(), sum.end() - 1, a.dmu.as<T>());
  a.dscale.as<T>()[0] = sum.back();
}

// y[g] = w[g]^T x[g]
template <class T>
void mix_tokens_forward(const MixTokensForward& a) {
  const std::int64_t tokens = a.x.shape[1], width = a.x.shape[2], slots = a.w.shape[2];
  for (std::int64_t g = 0; g < a.x.shape[0]; ++g)
    transposed_times(a.w.as<T>() + g * tokens * slots, a.x.as<T>() + g * tokens * width,
                     a.y.as<T>() + g * slots * width, tokens, slots, width);
}

// dw[g] = x[g] dy[g]^T;  dx[g] = w[g] dy[g]
template <class T>
void mix_tokens_backward(const MixTokensBackward& a) {
  const std::int64_t tokens = a.x.shape[1], width = a.x.shape[2], slots = a.w.shape[2];
  for (std::int64_t g = 0; g < a.x.shape[0]; ++g) {
    const T *x = a.x.as<T>() + g * tokens * width, *dy = a.dy.as<T>() + g * slots * width;
    const std::int64_t pairs = g * tokens * slots;
    times_transposed<T>(x, dy, nullptr, a.dw.as<T>() + pairs, tokens, slots, width);
    affine<T>(a.w.as<T>() + pairs, dy, nullptr, nullptr, a.dx.as<T>() + g * tokens * width, tokens, slots, width);
  }
}

// y[g] = residual[g] + w[g] o[g]
template <class T>
void mix_slots_forward(const MixSlotsForward& a) {
  const std::int64_t tokens = a.w.shape[1], slots = a.w.shape[2], width = a.y.shape[2];
  for (std::int64_t g = 0; g < a.w.shape[0]; ++g) {
    const T* residual = a.residual ? a.residual.as<T>() + g * tokens * width : nullptr;
    affine<T>(a.w.as<T>() + g * tokens * slots, a.o.as<T>() + g * slots * width, nullptr, residual,
              a.y.as<T>() + g * tokens * width, tokens, slots, width);
  }
}

// dw[g] = dy[g] o[g]^T;  d_o[g] = w[g]^T dy[g]
template <class T>
void mix_slots_backward(const MixSlotsBackward& a) {
  const std::int64_t tokens = a.w.shape[1], slots = a.w.shape[2], width = a.dy.shape[2];
  for (std::int64_t g = 0; g < a.w.shape[0]; ++g) {
    const T *dy = a.dy.as<T>() + g * tokens * width, *o = a.o.as<T>() + g * slots * width;
    const std::int64_t pairs = g * tokens * slots;
    times_transposed<T>(dy, o, nullptr, a.dw.as<T>() + pairs, tokens, slots, width);
    transposed_times(a.w.as<T>() + pairs, dy, a.d_o.as<T>() + g * slots * width, tokens, slots, width);
  }
}

VITRAIL_REFERENCE_VERB(soft_router_forward, SoftRouterForward)
VITRAIL_REFERENCE_VERB(soft_router_backward, SoftRouterBackward)
VITRAIL_REFERENCE_VERB(mix_tokens_forward, MixTokensForward)
VITRAIL_REFERENCE_VERB(mix_tokens_backward, MixTokensBackward)
VITRAIL_REFERENCE_VERB(mix_slots_forward, MixSlotsForward)
VITRAIL_REFERENCE_VERB(mix_slots_backward, MixSlotsBackward)

}  // namespace vitrail::reference
