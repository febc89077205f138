// The router's losses and the gradient of its logits. Sums over the tokens of a group, and all of the load loss, are in
// double: groups are small, and the losses are differences of nearly equal numbers.

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/router_loss_kernels.hpp"

namespace vitrail::cpu {

namespace {

/// One group of a call.
struct Group {
  const float* logits;
  const float* noise;  // nullptr: no load loss
  const float* gates_clean;
  const float* gates;
  const std::int32_t* selected;
  const std::uint8_t* valid;  // nullptr: all tokens count
  std::int64_t tokens, experts, choices;
  double sigma;

  [[nodiscard]] bool counts(std::int64_t s) const { return valid == nullptr || valid[s] != 0; }
  [[nodiscard]] double count() const {
    return valid == nullptr ? static_cast<double>(tokens)
                            : static_cast<double>(tokens - std::count(valid, valid + tokens, std::uint8_t{0}));
  }
  /// The expert whose noisy logit is the K-th largest of the token.
  [[nodiscard]] std::int64_t threshold_expert(std::int64_t s) const { return selected[s * choices + choices - 1]; }
  /// That logit.
  [[nodiscard]] double threshold(std::int64_t s) const {
    const std::int64_t i = s * experts + threshold_expert(s);
    return static_cast<double>(logits[i]) + sigma * static_cast<double>(noise[i]);
  }
};

template <class Arguments>
Group group_of(const Arguments& a, std::int64_t group) {
  const std::int64_t tokens = a.logits.shape[1];
  const std::int64_t experts = a.logits.shape[2];
  const std::int64_t choices = a.selected.shape[2];
  const std::int64_t first = group * tokens * experts;
  const bool noisy = a.noise && a.noise_std > 0.0;
  return {a.logits.template as<float>() + first,
          noisy ? a.noise.template as<float>() + first : nullptr,
          a.gates_clean.template as<float>() + first,
          a.gates.template as<float>() + first,
          a.selected.template as<std::int32_t>() + group * tokens * choices,
          nullptr,
          tokens,
          experts,
          choices,
          a.noise_std};
}

/// totals[e] = sum over the tokens of gates[s,e].
void sum_gates(const Group& g, const float* gates, double* totals) {
  std::fill_n(totals, g.experts, 0.0);
  for (std::int64_t s = 0; s < g.tokens; ++s) {
    if (!g.counts(s)) continue;
    for (std::int64_t e = 0; e < g.experts; ++e) totals[e] += static_cast<double>(gates[s * g.experts + e]);
  }
}

/// Scratch for what is computed of several tokens at once.
struct Run {
  static constexpr std::int64_t kElements = 512;
  static std::int64_t elements(std::int64_t experts) { return std::max(kElements, experts); }
  /// Doubles.
  static std::int64_t scratch(std::int64_t experts) { return 4 * elements(experts); }
  Run(double* scratch, std::int64_t experts)
      : tokens(elements(experts) / experts),
        x(scratch),
        y(x + elements(experts)),
        tops(y + elements(experts)),
        sums(tops + elements(experts)) {}
  std::int64_t tokens;
  double* x;     // [tokens E]
  double* y;     // [tokens E]
  double* tops;  // [tokens]
  double* sums;  // [tokens]
};
/// body(first, count) for runs of the group's tokens.
template <class Body>
void for_runs(const Group& g, const Run& run, const Body& body) {
  for (std::int64_t first = 0; first < g.tokens; first += run.tokens)
    body(first, std::min(run.tokens, g.tokens - first));
}

/// run.x = the thresholds of tokens first .. first+count-1, once for every expert.
void spread_thresholds(const Group& g, std::int64_t first, std::int64_t count, const Run& run) {
  for (std::int64_t s = 0; s < count; ++s) std::fill_n(run.x + s * g.experts, g.experts, g.threshold(first + s));
}

/// load[e] = mean over the tokens of the chance 1 - Phi(r) that e would be selected again.
void mean_load(const Group& g, const Run& run, double* load) {
  std::fill_n(load, g.experts, 0.0);
  const double scale = 1.0 / (g.sigma * std::numbers::sqrt2);
  for_runs(g, run, [&](std::int64_t first, std::int64_t count) {
    spread_thresholds(g, first, count, run);
    erfc_run(run.x, g.logits + first * g.experts, scale, run.y, count * g.experts);
    for (std::int64_t s = 0; s < count; ++s) {
      if (!g.counts(first + s)) continue;
      for (std::int64_t e = 0; e < g.experts; ++e) load[e] += run.y[s * g.experts + e];
    }
  });
  const double count = g.count();
  for (std::int64_t e = 0; e < g.experts; ++e) load[e] *= 0.5 / count;
}

/// share[e] = share of the tokens whose first choice is e.
void first_choices(const Group& g, double* share) {
  std::fill_n(share, g.experts, 0.0);
  for (std::int64_t s = 0; s < g.tokens; ++s) {
    if (g.counts(s)) share[g.selected[s * g.choices]] += 1.0;
  }
  const double count = g.count();
  for (std::int64_t e = 0; e < g.experts; ++e) share[e] /= count;
}

/// run.sums = log of the sum of exp of each token's logits, without noise; of tokens first .. first+count-1.
void log_sums(const Group& g, std::int64_t first, std::int64_t count, const Run& run) {
  const float* const logits = g.logits + first * g.experts;
  for (std::int64_t s = 0; s < count; ++s) {
    const float* const z = logits + s * g.experts;
    run.tops[s] = static_cast<double>(*std::max_element(z, z + g.experts));
    std::fill_n(run.x + s * g.experts, g.experts, run.tops[s]);
  }
  exp_run(run.x, logits, run.y, count * g.experts);
  for (std::int64_t s = 0; s < count; ++s) {
    run.sums[s] = 0.0;
    for (std::int64_t e = 0; e < g.experts; ++e) run.sums[s] += run.y[s * g.experts + e];
  }
  log_run(run.sums, run.sums, count);
  for (std::int64_t s = 0; s < count; ++s) run.sums[s] += run.tops[s];
}

struct Spread {
  double mean;
  double variance;
};
Spread spread_of(const double* v, std::int64_t n) {
  const auto count = static_cast<double>(n);
  double total = 0.0;
  for (std::int64_t e = 0; e < n; ++e) total += v[e];
  const double mean = total / count;
  double squares = 0.0;
  for (std::int64_t e = 0; e < n; ++e) squares += (v[e] - mean) * (v[e] - mean);
  return {mean, squares / count};
}
/// CV2 = variance / mean^2, 0 when the mean is 0. [V-MoE]
double squared_variation(const double* v, std::int64_t n) {
  const auto [mean, variance] = spread_of(v, n);
  return mean == 0.0 ? 0.0 : variance / (mean * mean);
}
/// v[e] = scale * d CV2 / d v[e] = scale * (2 (v_e - mean) / (E mean^2) - 2 var / (E mean^3)). [derived]
void squared_variation_gradient(double scale, double* v, std::int64_t n) {
  const auto [mean, variance] = spread_of(v, n);
  const double factor = mean == 0.0 ? 0.0 : 2.0 * scale / (static_cast<double>(n) * mean * mean);
  for (std::int64_t e = 0; e < n; ++e) v[e] = factor == 0.0 ? 0.0 : factor * (v[e] - mean - variance / mean);
}

/// dz[i] += p[i] (dp[i] - sum over e of p[e] dp[e])
void add_softmax_backward(const float* p, const double* dp, double* dz, std::int64_t n) {
  double inner = 0.0;
  for (std::int64_t e = 0; e < n; ++e) inner += static_cast<double>(p[e]) * dp[e];
  for (std::int64_t e = 0; e < n; ++e) dz[e] += static_cast<double>(p[e]) * (dp[e] - inner);
}

/// Through z and through the threshold; load_slope = scale * d CV2 / d load, bells = exp(-r^2/2). [derived]
void add_load_backward(const Group& g, std::int64_t s, const double* load_slope, const double* bells, double* dz) {
  const double density_scale =
      std::numbers::inv_sqrtpi / std::numbers::sqrt2 / (g.sigma * static_cast<double>(g.tokens));
  double total = 0.0;
  for (std::int64_t e = 0; e < g.experts; ++e) {
    const double c = load_slope[e] * density_scale * bells[e];
    dz[e] += c;
    total += c;
  }
  dz[g.threshold_expert(s)] -= total;
}

}  // namespace

void CpuOps::run(const RouterLossesForward& a) {
  const std::int64_t experts = a.logits.shape[2];
  const std::int64_t scratch = 2 * (Run::scratch(experts) + aligned_floats(2 * experts));  // and two rows of doubles
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, a.logits.shape[0], [&](std::int64_t group, int thread) {
    Group g = group_of(a, group);
    if (a.valid) g.valid = a.valid.as<std::uint8_t>() + group * g.tokens;
    auto* const doubles = reinterpret_cast<double*>(scratches + thread * scratch);
    const Run run(doubles, experts);
    double* const totals = doubles + Run::scratch(experts);
    double* const shares = totals + experts;
    double importance = 0.0;
    double load = 0.0;
    double gshard = 0.0;
    double z = 0.0;
    const double count = g.count();
    if (count > 0.0) {
      sum_gates(g, g.gates_clean, totals);
      importance = squared_variation(totals, experts);
      sum_gates(g, g.gates, totals);
      first_choices(g, shares);
      for (std::int64_t e = 0; e < experts; ++e) gshard += shares[e] * totals[e];
      gshard *= static_cast<double>(experts) / count;
      for_runs(g, run, [&](std::int64_t first, std::int64_t tokens) {
        log_sums(g, first, tokens, run);
        for (std::int64_t s = 0; s < tokens; ++s) z += g.counts(first + s) ? run.sums[s] * run.sums[s] / count : 0.0;
      });
      if (g.noise != nullptr) {
        mean_load(g, run, totals);
        load = squared_variation(totals, experts);
      }
    }
    a.importance.as<float>()[group] = static_cast<float>(importance);
    a.load.as<float>()[group] = static_cast<float>(load);
    a.gshard.as<float>()[group] = static_cast<float>(gshard);
    a.z.as<float>()[group] = static_cast<float>(z);
  });
}

void CpuOps::run(const RouterBackward& a) {
  const std::int64_t experts = a.logits.shape[2];
  const std::int64_t scratch = 2 * (Run::scratch(experts) + aligned_floats(5 * experts));  // and five rows of doubles
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, a.logits.shape[0], [&](std::int64_t group, int thread) {
    const Group g = group_of(a, group);
    auto* const doubles = reinterpret_cast<double*>(scratches + thread * scratch);
    const Run run(doubles, experts);
    double* const importance = doubles + Run::scratch(experts);
    double* const load = importance + experts;
    double* const first = load + experts;  // d loss / d gates that is the same for all tokens
    double* const dgates = first + experts;
    double* const dz = dgates + experts;
    std::fill_n(first, experts, 0.0);
    if (a.gshard_scale != 0.0) {
      first_choices(g, first);
      const double scale = a.gshard_scale * static_cast<double>(experts) / static_cast<double>(g.tokens);
      for (std::int64_t e = 0; e < experts; ++e) first[e] *= scale;
    }
    if (a.importance_scale != 0.0) {
      sum_gates(g, g.gates_clean, importance);
      squared_variation_gradient(a.importance_scale, importance, experts);
    }
    const bool loaded = a.load_scale != 0.0 && g.noise != nullptr;
    if (loaded) {
      mean_load(g, run, load);
      squared_variation_gradient(a.load_scale, load, experts);
    }
    const float* const dgate = a.dgate.as<float>() + group * g.tokens * g.choices;
    float* const dlogits = a.dlogits.as<float>() + group * g.tokens * experts;
    const auto token_backward = [&](std::int64_t s, const double* bells, double log_sum) {
      std::copy_n(first, experts, dgates);
      for (std::int64_t j = 0; j < g.choices; ++j)
        dgates[g.selected[s * g.choices + j]] += static_cast<double>(dgate[s * g.choices + j]);
      std::fill_n(dz, experts, 0.0);
      add_softmax_backward(g.gates + s * experts, dgates, dz, experts);
      if (a.importance_scale != 0.0) add_softmax_backward(g.gates_clean + s * experts, importance, dz, experts);
      if (loaded) add_load_backward(g, s, load, bells, dz);
      if (a.z_scale != 0.0) {
        const double slope = 2.0 * a.z_scale / static_cast<double>(g.tokens) * log_sum;
        for (std::int64_t e = 0; e < experts; ++e) dz[e] += slope * static_cast<double>(g.gates_clean[s * experts + e]);
      }
      for (std::int64_t e = 0; e < experts; ++e) dlogits[s * experts + e] = static_cast<float>(dz[e]);
    };
    for_runs(g, run, [&](std::int64_t begin, std::int64_t tokens) {
      if (a.z_scale != 0.0) log_sums(g, begin, tokens, run);
      if (loaded) {
        spread_thresholds(g, begin, tokens, run);
        bell_run(run.x, g.logits + begin * experts, 1.0 / (g.sigma * std::numbers::sqrt2), run.y, tokens * experts);
      }
      for (std::int64_t s = 0; s < tokens; ++s)
        token_backward(begin + s, run.y + s * experts, a.z_scale != 0.0 ? run.sums[s] : 0.0);
    });
  });
}

}  // namespace vitrail::cpu
