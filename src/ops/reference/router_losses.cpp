// The auxiliary losses of the router, and the gradient of its logits.

#include <algorithm>

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

template <class T>
T mean_of(const std::vector<T>& v) {
  T sum{};
  for (const T& x : v) sum += x;
  return sum / static_cast<double>(v.size());
}

template <class T>
T variance_of(const std::vector<T>& v) {
  const T mean = mean_of(v);
  T sum{};
  for (const T& x : v) sum += (x - mean) * (x - mean);
  return sum / static_cast<double>(v.size());
}

// CV2(v) = var(v) / mean(v)^2, population variance; 0 when the mean is 0. Not (std / mean)^2: the derivative of that is
// 0/0 where all v are equal.
template <class T>
T squared_variation(const std::vector<T>& v) {
  const T mean = mean_of(v);
  return real_part(mean) == 0.0 ? T{} : variance_of(v) / (mean * mean);
}

// d CV2 / d v_e = 2 (v_e - mean) / (E mean^2) - 2 var / (E mean^3)
template <class T>
std::vector<T> squared_variation_gradient(const std::vector<T>& v) {
  const double experts = static_cast<double>(v.size());
  const T mean = mean_of(v), variance = variance_of(v);
  std::vector<T> gradient(v.size());
  if (real_part(mean) == 0.0) return gradient;
  for (std::size_t e = 0; e < v.size(); ++e)
    gradient[e] = 2.0 * (v[e] - mean) / (experts * mean * mean) - 2.0 * variance / (experts * mean * mean * mean);
  return gradient;
}

// One group of a call: pointers to its first token.
template <class T>
struct Group {
  std::int64_t tokens, experts, choices;
  const T *logits, *noise;  // noise: null without noise
  const T *gates_clean, *gates;
  const std::int32_t* selected;
  const std::uint8_t* valid;  // null: all are
  double sigma;

  [[nodiscard]] bool takes_part(std::int64_t s) const { return valid == nullptr || valid[s] != 0; }
  [[nodiscard]] double count() const {
    std::int64_t n = 0;
    for (std::int64_t s = 0; s < tokens; ++s) n += takes_part(s) ? 1 : 0;
    return static_cast<double>(n);
  }
  // The expert with the K-th largest noisy logit of token s.
  [[nodiscard]] std::int64_t threshold_expert(std::int64_t s) const { return selected[s * choices + choices - 1]; }
  // r = (eta - z[s,e]) / sigma; eta = the K-th largest noisy logit of the token
  [[nodiscard]] T distance(std::int64_t s, std::int64_t e) const {
    const std::int64_t k = s * experts + threshold_expert(s);
    return (logits[k] + sigma * noise[k] - logits[s * experts + e]) / sigma;
  }
};

template <class T, class Arguments>
Group<T> group_of(const Arguments& a, std::int64_t g) {
  const std::int64_t tokens = a.logits.shape[1], experts = a.logits.shape[2], choices = a.selected.shape[2];
  const std::int64_t first = g * tokens * experts;
  const bool noisy = a.noise && a.noise_std > 0.0;
  return {tokens,
          experts,
          choices,
          a.logits.template as<T>() + first,
          noisy ? a.noise.template as<T>() + first : nullptr,
          a.gates_clean.template as<T>() + first,
          a.gates.template as<T>() + first,
          a.selected.template as<std::int32_t>() + g * tokens * choices,
          nullptr,
          a.noise_std};
}

// v[e] = sum over tokens of value(s, e)
template <class T, class Value>
std::vector<T> sum_over_tokens(const Group<T>& g, const Value& value) {
  std::vector<T> sum(static_cast<std::size_t>(g.experts));
  for (std::int64_t s = 0; s < g.tokens; ++s) {
    if (!g.takes_part(s)) continue;
    for (std::int64_t e = 0; e < g.experts; ++e) sum[static_cast<std::size_t>(e)] += value(s, e);
  }
  return sum;
}

// v[e] = sum over tokens of gates_clean[s,e]
template <class T>
std::vector<T> importance_of(const Group<T>& g) {
  return sum_over_tokens(g, [&](std::int64_t s, std::int64_t e) { return g.gates_clean[s * g.experts + e]; });
}

// q[e] = mean over tokens of p[s,e], p = 1 - Phi(r) = erfc(r / sqrt 2) / 2: the chance that e would be selected again
template <class T>
std::vector<T> load_of(const Group<T>& g) {
  std::vector<T> q = sum_over_tokens(
      g, [&](std::int64_t s, std::int64_t e) -> T { return 0.5 * erfc(g.distance(s, e) / std::numbers::sqrt2); });
  for (T& x : q) x /= g.count();
  return q;
}

// top1[e] = share of the tokens whose largest gate is that of e
template <class T>
std::vector<T> first_choice_shares(const Group<T>& g) {
  std::vector<T> share =
      sum_over_tokens(g, [&](std::int64_t s, std::int64_t e) { return T(g.selected[s * g.choices] == e ? 1.0 : 0.0); });
  for (T& x : share) x /= g.count();
  return share;
}

// E * sum over e of top1[e] * (mean over tokens of gates[s,e])
template <class T>
T gshard_loss(const Group<T>& g) {
  const std::vector<T> top1 = first_choice_shares(g);
  const std::vector<T> gates =
      sum_over_tokens(g, [&](std::int64_t s, std::int64_t e) { return g.gates[s * g.experts + e]; });
  T sum{};
  for (std::size_t e = 0; e < gates.size(); ++e) sum += top1[e] * gates[e] / g.count();
  return static_cast<double>(g.experts) * sum;
}

// mean over tokens of (log of sum over e of exp(z[s,e]))^2
template <class T>
T z_loss(const Group<T>& g) {
  T sum{};
  for (std::int64_t s = 0; s < g.tokens; ++s) {
    if (!g.takes_part(s)) continue;
    const T size = log_sum_exp(g.logits + s * g.experts, g.experts);
    sum += size * size;
  }
  return sum / g.count();
}

// dz[s,e] += scale * 2 / S * log_sum_exp(z[s]) * gates_clean[s,e]
template <class T>
void add_z_backward(const Group<T>& g, double scale, T* dz) {
  for (std::int64_t s = 0; s < g.tokens; ++s) {
    const T slope = 2.0 * scale / static_cast<double>(g.tokens) * log_sum_exp(g.logits + s * g.experts, g.experts);
    for (std::int64_t e = 0; e < g.experts; ++e) dz[s * g.experts + e] += slope * g.gates_clean[s * g.experts + e];
  }
}

// dz[s,i] += p[s,i] (dp[s,i] - sum over e of p[s,e] dp[s,e]) for one token, p = softmax(z)
template <class T>
void add_softmax_backward(const T* p, const T* dp, T* dz, std::int64_t experts) {
  T inner{};
  for (std::int64_t e = 0; e < experts; ++e) inner += p[e] * dp[e];
  for (std::int64_t i = 0; i < experts; ++i) dz[i] += p[i] * (dp[i] - inner);
}

// d load / d z through z and through the threshold:
//   c[s,e] = b[e] / S * phi(r[s,e]) / sigma, b = d CV2 / d q;  dz[s,e] += c[s,e];  dz[s,kappa] -= sum over e of c[s,e]
template <class T>
void add_load_backward(const Group<T>& g, double scale, T* dz) {
  const std::vector<T> b = squared_variation_gradient(load_of(g));
  const double inv_sqrt_2pi = std::numbers::inv_sqrtpi / std::numbers::sqrt2;
  for (std::int64_t s = 0; s < g.tokens; ++s) {
    for (std::int64_t e = 0; e < g.experts; ++e) {
      const T r = g.distance(s, e);
      const T density = inv_sqrt_2pi * std::exp(-0.5 * r * r);
      const T c = b[static_cast<std::size_t>(e)] / static_cast<double>(g.tokens) * density / g.sigma;
      dz[s * g.experts + e] += scale * c;
      dz[s * g.experts + g.threshold_expert(s)] -= scale * c;
    }
  }
}

// Through the combine weights and the GShard loss, both functions of `gates`:
//   dg[s, selected[s,j]] = dgate[s,j];  dg[s,e] += E top1[e] / S
template <class T>
void add_gates_backward(const Group<T>& g, const T* dgate, double gshard_scale, T* dz) {
  std::vector<T> top1(static_cast<std::size_t>(g.experts)), dg(static_cast<std::size_t>(g.experts));
  if (gshard_scale != 0.0) top1 = first_choice_shares(g);
  for (std::int64_t s = 0; s < g.tokens; ++s) {
    for (std::size_t e = 0; e < dg.size(); ++e)
      dg[e] = gshard_scale * static_cast<double>(g.experts) / static_cast<double>(g.tokens) * top1[e];
    for (std::int64_t j = 0; j < g.choices; ++j)
      dg[static_cast<std::size_t>(g.selected[s * g.choices + j])] += dgate[s * g.choices + j];
    add_softmax_backward(g.gates + s * g.experts, dg.data(), dz + s * g.experts, g.experts);
  }
}

}  // namespace

// importance = CV2(sum of gates_clean);  load = CV2(mean of p);  gshard = E sum of top1 mean(gates);
// z = mean of log_sum_exp(logits)^2
template <class T>
void router_losses_forward(const RouterLossesForward& a) {
  for (std::int64_t i = 0; i < a.logits.shape[0]; ++i) {
    Group<T> g = group_of<T>(a, i);
    if (a.valid) g.valid = a.valid.as<std::uint8_t>() + i * g.tokens;
    const bool any = g.count() > 0.0;
    a.importance.as<T>()[i] = any ? squared_variation(importance_of(g)) : T{};
    a.load.as<T>()[i] = any && g.noise != nullptr ? squared_variation(load_of(g)) : T{};
    a.gshard.as<T>()[i] = any ? gshard_loss(g) : T{};
    a.z.as<T>()[i] = any ? z_loss(g) : T{};
  }
}

// dz = through dgate + importance_scale dz_importance + load_scale dz_load + gshard_scale dz_gshard + z_scale dz_z
template <class T>
void router_backward(const RouterBackward& a) {
  std::fill(a.dlogits.as<T>(), a.dlogits.as<T>() + a.dlogits.elements(), T{});
  for (std::int64_t i = 0; i < a.logits.shape[0]; ++i) {
    const Group<T> g = group_of<T>(a, i);
    T* dz = a.dlogits.as<T>() + i * g.tokens * g.experts;
    add_gates_backward(g, a.dgate.as<T>() + i * g.tokens * g.choices, a.gshard_scale, dz);
    if (a.importance_scale != 0.0) {
      std::vector<T> dv = squared_variation_gradient(importance_of(g));
      for (T& x : dv) x *= a.importance_scale;
      for (std::int64_t s = 0; s < g.tokens; ++s)
        add_softmax_backward(g.gates_clean + s * g.experts, dv.data(), dz + s * g.experts, g.experts);
    }
    if (a.load_scale != 0.0 && g.noise != nullptr) add_load_backward(g, a.load_scale, dz);
    if (a.z_scale != 0.0) add_z_backward(g, a.z_scale, dz);
  }
}

VITRAIL_REFERENCE_VERB(router_losses_forward, RouterLossesForward)
VITRAIL_REFERENCE_VERB(router_backward, RouterBackward)

}  // namespace vitrail::reference
