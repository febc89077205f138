// Multi-head attention without a mask over tokens, with dropout.

#include <algorithm>

#include "ops/dropout_mask.hpp"
#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

// The tensors of one image and head: where they begin, and how they go on. Token t begins at t * stride.
struct Head {
  std::int64_t queries, keys, width, stride;
  double scale;         // 1 / sqrt(Dh)
  std::int64_t of_q;    // offset in tensors [leaves B Tq H Dh]
  std::int64_t of_k;    // in [leaves B T H Dh]
  std::int64_t of_row;  // in [leaves B H Tq]
};

template <class T>
T dot(const T* a, const T* b, std::int64_t n) {
  T sum{};
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Calls visit(head) for every image and head.
template <class Visit>
void for_each_head(const Shape& q, const Shape& k, const Visit& visit) {
  const std::int64_t images = q[0] * q[1], queries = q[2], keys = k[2], heads = q[3], width = q[4];
  const double scale = 1.0 / std::sqrt(static_cast<double>(width));
  for (std::int64_t b = 0; b < images; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      visit(Head{queries, keys, width, heads * width, scale, (b * queries * heads + h) * width,
                 (b * keys * heads + h) * width, (b * heads + h) * queries});
    }
  }
}

// The factor of the dropout of query t and key s.
double factor(const DropoutMask& mask, const DropoutDraw& draw, const Head& n, std::int64_t t, std::int64_t s) {
  return mask.factor(draw.first + static_cast<std::uint64_t>((n.of_row + t) * n.keys + s));
}

}  // namespace

// scores[t,s] = <q[t], k[s]> / sqrt(Dh);  log_sum_exp[t] = log of sum over s of exp(scores[t,s])
// out[t] = sum over s of factor[t,s] exp(scores[t,s] - log_sum_exp[t]) v[s]
template <class T>
void attention_forward(const AttentionForward& a) {
  const DropoutMask mask(a.dropout);
  for_each_head(a.q.shape, a.k.shape, [&](const Head& n) {
    const T *q = a.q.as<T>() + n.of_q, *k = a.k.as<T>() + n.of_k, *v = a.v.as<T>() + n.of_k;
    T *out = a.out.as<T>() + n.of_q, *lse = a.log_sum_exp.as<T>() + n.of_row;
    std::vector<T> scores(static_cast<std::size_t>(n.keys));
    for (std::int64_t t = 0; t < n.queries; ++t) {
      for (std::int64_t s = 0; s < n.keys; ++s)
        scores[static_cast<std::size_t>(s)] = dot(q + t * n.stride, k + s * n.stride, n.width) * n.scale;
      lse[t] = log_sum_exp(scores.data(), n.keys);
      std::fill(out + t * n.stride, out + t * n.stride + n.width, T{});
      for (std::int64_t s = 0; s < n.keys; ++s) {
        const T probability = std::exp(scores[static_cast<std::size_t>(s)] - lse[t]);
        const T weight = factor(mask, a.dropout, n, t, s) * probability;
        for (std::int64_t c = 0; c < n.width; ++c) out[t * n.stride + c] += weight * v[s * n.stride + c];
      }
    }
  });
}

// p[t,s] = exp(<q[t], k[s]> / sqrt(Dh) - log_sum_exp[t])
// dp[t,s] = factor[t,s] <dout[t], v[s]>
// ds[t,s] = p[t,s] (dp[t,s] - <dout[t], out[t]>), for sum over s of p dp = <dout, out>
// dq[t] = sum over s of ds[t,s] k[s] / sqrt(Dh);  dk[s] = sum over t of ds[t,s] q[t] / sqrt(Dh)
// dv[s] = sum over t of factor[t,s] p[t,s] dout[t]
template <class T>
void attention_backward(const AttentionBackward& a) {
  const DropoutMask mask(a.dropout);
  for (const Tensor& gradient : {a.dq, a.dk, a.dv})
    std::fill(gradient.as<T>(), gradient.as<T>() + gradient.elements(), T{});
  for_each_head(a.q.shape, a.k.shape, [&](const Head& n) {
    const T *q = a.q.as<T>() + n.of_q, *k = a.k.as<T>() + n.of_k, *v = a.v.as<T>() + n.of_k;
    const T *out = a.out.as<T>() + n.of_q, *dout = a.dout.as<T>() + n.of_q;
    const T* lse = a.log_sum_exp.as<T>() + n.of_row;
    T *dq = a.dq.as<T>() + n.of_q, *dk = a.dk.as<T>() + n.of_k, *dv = a.dv.as<T>() + n.of_k;
    for (std::int64_t t = 0; t < n.queries; ++t) {
      const std::int64_t row_t = t * n.stride;
      const T dout_out = dot(dout + row_t, out + row_t, n.width);
      for (std::int64_t s = 0; s < n.keys; ++s) {
        const std::int64_t row_s = s * n.stride;
        const double kept = factor(mask, a.dropout, n, t, s);
        const T p = std::exp(dot(q + row_t, k + row_s, n.width) * n.scale - lse[t]);
        const T ds = p * (kept * dot(dout + row_t, v + row_s, n.width) - dout_out) * n.scale;
        for (std::int64_t c = 0; c < n.width; ++c) {
          dq[row_t + c] += ds * k[row_s + c];
          dk[row_s + c] += ds * q[row_t + c];
          dv[row_s + c] += kept * p * dout[row_t + c];
        }
      }
    }
  });
}

VITRAIL_REFERENCE_VERB(attention_forward, AttentionForward)
VITRAIL_REFERENCE_VERB(attention_backward, AttentionBackward)

}  // namespace vitrail::reference
