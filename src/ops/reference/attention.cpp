// Multi-head attention without a mask.

#include <algorithm>

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

// The tensors of one image and head; token t begins at t * stride.
struct Head {
  std::int64_t tokens, width, stride;
  double scale;  // 1 / sqrt(Dh)
};

template <class T>
T dot(const T* a, const T* b, std::int64_t n) {
  T sum{};
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Calls visit(head, offset of the image and head in [leaves B T H Dh], offset in [leaves B H T]) for all of them.
template <class Visit>
void for_each_head(const Shape& shape, const Visit& visit) {
  const std::int64_t images = shape[0] * shape[1], tokens = shape[2], heads = shape[3], width = shape[4];
  const Head head{tokens, width, heads * width, 1.0 / std::sqrt(static_cast<double>(width))};
  for (std::int64_t b = 0; b < images; ++b)
    for (std::int64_t h = 0; h < heads; ++h) visit(head, (b * tokens * heads + h) * width, (b * heads + h) * tokens);
}

}  // namespace

// scores[t,s] = <q[t], k[s]> / sqrt(Dh);  log_sum_exp[t] = log of sum over s of exp(scores[t,s])
// out[t] = sum over s of exp(scores[t,s] - log_sum_exp[t]) v[s]
template <class T>
void attention_forward(const AttentionForward& a) {
  for_each_head(a.q.shape, [&](const Head& n, std::int64_t offset, std::int64_t row_offset) {
    const T *q = a.q.as<T>() + offset, *k = a.k.as<T>() + offset, *v = a.v.as<T>() + offset;
    T *out = a.out.as<T>() + offset, *lse = a.log_sum_exp.as<T>() + row_offset;
    std::vector<T> scores(static_cast<std::size_t>(n.tokens));
    for (std::int64_t t = 0; t < n.tokens; ++t) {
      for (std::int64_t s = 0; s < n.tokens; ++s)
        scores[static_cast<std::size_t>(s)] = dot(q + t * n.stride, k + s * n.stride, n.width) * n.scale;
      lse[t] = log_sum_exp(scores.data(), n.tokens);
      std::fill(out + t * n.stride, out + t * n.stride + n.width, T{});
      for (std::int64_t s = 0; s < n.tokens; ++s) {
        const T probability = std::exp(scores[static_cast<std::size_t>(s)] - lse[t]);
        for (std::int64_t c = 0; c < n.width; ++c) out[t * n.stride + c] += probability * v[s * n.stride + c];
      }
    }
  });
}

// p[t,s] = exp(<q[t], k[s]> / sqrt(Dh) - log_sum_exp[t])
// dp[t,s] = <dout[t], v[s]>;  ds[t,s] = p[t,s] (dp[t,s] - <dout[t], out[t]>), for sum over s of p dp = <dout, out>
// dq[t] = sum over s of ds[t,s] k[s] / sqrt(Dh);  dk[s] = sum over t of ds[t,s] q[t] / sqrt(Dh)
// dv[s] = sum over t of p[t,s] dout[t]
template <class T>
void attention_backward(const AttentionBackward& a) {
  for (const Tensor& gradient : {a.dq, a.dk, a.dv})
    std::fill(gradient.as<T>(), gradient.as<T>() + gradient.elements(), T{});
  for_each_head(a.q.shape, [&](const Head& n, std::int64_t offset, std::int64_t row_offset) {
    const T *q = a.q.as<T>() + offset, *k = a.k.as<T>() + offset, *v = a.v.as<T>() + offset;
    const T *out = a.out.as<T>() + offset, *dout = a.dout.as<T>() + offset;
    const T* lse = a.log_sum_exp.as<T>() + row_offset;
    T *dq = a.dq.as<T>() + offset, *dk = a.dk.as<T>() + offset, *dv = a.dv.as<T>() + offset;
    for (std::int64_t t = 0; t < n.tokens; ++t) {
      const std::int64_t row_t = t * n.stride;
      const T dout_out = dot(dout + row_t, out + row_t, n.width);
      for (std::int64_t s = 0; s < n.tokens; ++s) {
        const std::int64_t row_s = s * n.stride;
        const T p = std::exp(dot(q + row_t, k + row_s, n.width) * n.scale - lse[t]);
        const T ds = p * (dot(dout + row_t, v + row_s, n.width) - dout_out) * n.scale;
        for (std::int64_t c = 0; c < n.width; ++c) {
          dq[row_t + c] += ds * k[row_s + c];
          dk[row_s + c] += ds * q[row_t + c];
          dv[row_s + c] += p * dout[row_t + c];
        }
      }
    }
  });
}

VITRAIL_REFERENCE_VERB(attention_forward, AttentionForward)
VITRAIL_REFERENCE_VERB(attention_backward, AttentionBackward)

}  // namespace vitrail::reference
