// The router's losses and the gradient of its logits. Sums over the tokens of a group are taken in runs of kRun tokens
// by a block each, in double: the losses are differences of nearly equal numbers. A second kernel adds a group's runs
// in their order. Nothing depends on the other groups.

#include <numbers>

#include "device/cuda/launch.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/stored.hpp"
#include "ops/cuda/token_lanes.hpp"

namespace vitrail::cuda {
namespace {

constexpr int kRun = 64;            // tokens of a block
constexpr int kMostExperts = 1024;  // as dispatch_experts() lets through
enum Statistic { kImportance, kGates, kFirstChoices, kLoad, kStatistics };

/// The tensors of a call, and what is wanted of them.
struct Groups {
  const float* logits;           // [groups S E]
  const float* noise;            // [groups S E], or nullptr
  const float* gates_clean;      // [groups S E]
  const float* gates;            // [groups S E]
  const std::int32_t* selected;  // [groups S K]
  const std::uint8_t* valid;     // [groups S], or nullptr: all tokens count
  double sigma;
  int tokens, experts, choices;
  bool importance, load, gshard, z;

  [[nodiscard]] __host__ __device__ int runs() const { return (tokens + kRun - 1) / kRun; }
  /// Doubles of a run: kStatistics rows [E], then the sum of squares of log_sum_exp and the tokens that count.
  [[nodiscard]] __host__ __device__ int sums() const { return kStatistics * experts + 2; }
};

template <class Arguments>
Groups groups_of(const Arguments& a) {
  return {data_of<float>(a.logits),
          a.noise && a.noise_std > 0.0 ? data_of<float>(a.noise) : nullptr,
          data_of<float>(a.gates_clean),
          data_of<float>(a.gates),
          data_of<std::int32_t>(a.selected),
          nullptr,
          a.noise_std,
          static_cast<int>(a.logits.shape[1]),
          static_cast<int>(a.logits.shape[2]),
          static_cast<int>(a.selected.shape[2]),
          false,
          false,
          false,
          false};
}

/// The K-th largest noisy logit of a token, in double: distances from it are divided by a small sigma.
__device__ __forceinline__ double threshold_of(const Groups& a, std::int64_t token) {
  const std::int64_t i = token * a.experts + a.selected[token * a.choices + a.choices - 1];
  return static_cast<double>(a.logits[i]) + a.sigma * static_cast<double>(a.noise[i]);
}

// --- sums over tokens ------------------------------------------------------------------------------------------------

/// What a team of lanes has added up of its tokens.
template <int kPerLane>
struct TeamSums {
  double of_expert[kStatistics][kPerLane] = {};
  double squares = 0.0;
  double count = 0.0;
};

template <int kLanes, int kPerLane>
__device__ __forceinline__ void add_token(const Groups& a, std::int64_t token, int lane, bool counts,
                                          TeamSums<kPerLane>& sums) {
  const double weight = counts ? 1.0 : 0.0;
  const std::int64_t first = token * a.experts;
  float v[kPerLane];
  const auto add = [&](Statistic statistic) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (counts) sums.of_expert[statistic][i] += static_cast<double>(v[i]);
    }
  };
  if (a.importance) {
    load_experts<kLanes>(a.gates_clean + first, lane, a.experts, v);
    add(kImportance);
  }
  if (a.gshard) {
    load_experts<kLanes>(a.gates + first, lane, a.experts, v);
    add(kGates);
    const int chosen = a.selected[token * a.choices];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) v[i] = lane + kLanes * i == chosen ? 1.0F : 0.0F;
    add(kFirstChoices);
  }
  float z[kPerLane];
  load_experts<kLanes>(a.logits + first, lane, a.experts, z);
  if (a.load) {  // erfc(r / sqrt 2), r = (threshold - z) / sigma: twice the chance that the expert is selected again
    const double threshold = threshold_of(a, token), scale = 1.0 / (a.sigma * std::numbers::sqrt2);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      v[i] = erfcf(static_cast<float>((threshold - static_cast<double>(z[i])) * scale));
    add(kLoad);
  }
  if (a.z) {
    const auto size = static_cast<double>(softmax<kLanes>(z, lane, a.experts, v));
    if (counts) sums.squares += size * size;
  }
  sums.count += weight;
}

template <int kLanes, int kPerLane>
struct TeamsShared {
  static constexpr int kTeams = kTokenThreads / kLanes;
  double of_team[kTeams][kLanes * kPerLane];
  double squares[kTeams], count[kTeams];
};

/// Block r of group g adds the tokens of its run: each team of lanes every kTeams-th of them, then the teams in order.
template <int kLanes, int kPerLane>
__global__ void __launch_bounds__(kTokenThreads) sum_runs(Groups a, double* sums) {
  using Shared = TeamsShared<kLanes, kPerLane>;
  auto& shared = shared_memory<Shared>();
  const int run = static_cast<int>(blockIdx.x) % a.runs();
  const std::int64_t group = blockIdx.x / static_cast<unsigned>(a.runs());
  const int lane = static_cast<int>(threadIdx.x) % kLanes, team = static_cast<int>(threadIdx.x) / kLanes;
  TeamSums<kPerLane> mine;
  for (int i = team; i < kRun; i += Shared::kTeams) {
    const int place = min(run * kRun + i, a.tokens - 1);  // all lanes of a warp stay together
    const std::int64_t token = group * a.tokens + place;
    const bool counts = run * kRun + i < a.tokens && (a.valid == nullptr || a.valid[token] != 0);
    add_token<kLanes>(a, token, lane, counts, mine);
  }
  double* const out = sums + std::int64_t{blockIdx.x} * a.sums();
#pragma unroll
  for (int statistic = 0; statistic < kStatistics; ++statistic) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) shared.of_team[team][lane + kLanes * i] = mine.of_expert[statistic][i];
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < a.experts; e += kTokenThreads) {
      double total = 0.0;
      for (int t = 0; t < Shared::kTeams; ++t) total += shared.of_team[t][e];
      out[statistic * a.experts + e] = total;
    }
    __syncthreads();
  }
  if (lane == 0) shared.squares[team] = mine.squares, shared.count[team] = mine.count;
  __syncthreads();
  if (threadIdx.x >= 2) return;
  double total = 0.0;
  for (int t = 0; t < Shared::kTeams; ++t) total += threadIdx.x == 0 ? shared.squares[t] : shared.count[t];
  out[kStatistics * a.experts + static_cast<int>(threadIdx.x)] = total;
}

// --- of a group ------------------------------------------------------------------------------------------------------

struct GroupSums {
  double of_expert[kStatistics * kMostExperts + 2];
};

/// Adds the runs of group blockIdx.x; all threads see the sums afterwards.
__device__ __forceinline__ void add_runs(const Groups& a, const double* sums, GroupSums& shared) {
  const double* const of_group = sums + std::int64_t{blockIdx.x} * a.runs() * a.sums();
  for (int i = static_cast<int>(threadIdx.x); i < a.sums(); i += kTokenThreads) {
    double total = 0.0;
#pragma unroll 8
    for (int run = 0; run < a.runs(); ++run) total += of_group[std::int64_t{run} * a.sums() + i];
    shared.of_expert[i] = total;
  }
  __syncthreads();
}

struct Spread {
  double mean, variance;
};
/// Of v[0 .. n-1], by every warp for itself.
__device__ __forceinline__ Spread spread_of(const double* v, int n) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double total = 0.0, squares = 0.0;
  for (int e = lane; e < n; e += 32) total += v[e];
  const double mean = sum_of<32>(total) / n;
  for (int e = lane; e < n; e += 32) squares += (v[e] - mean) * (v[e] - mean);
  return {mean, sum_of<32>(squares) / n};
}
/// CV2 = variance / mean^2, 0 when the mean is 0. [V-MoE]
__device__ __forceinline__ double squared_variation(const double* v, int n) {
  const Spread s = spread_of(v, n);
  return s.mean == 0.0 ? 0.0 : s.variance / (s.mean * s.mean);
}

struct Losses {
  float *importance, *load, *gshard, *z;  // [groups]
};

__global__ void __launch_bounds__(kTokenThreads) find_losses(Groups a, const double* sums, Losses out) {
  auto& shared = shared_memory<GroupSums>();
  add_runs(a, sums, shared);
  const auto row = [&](Statistic statistic) { return shared.of_expert + statistic * a.experts; };
  const double squares = row(kStatistics)[0], count = row(kStatistics)[1];
  const double importance = squared_variation(row(kImportance), a.experts);
  // CV2 of sums is that of means.
  const double load = a.load ? squared_variation(row(kLoad), a.experts) : 0.0;
  double gshard = 0.0;
  for (int e = static_cast<int>(threadIdx.x) % 32; e < a.experts; e += 32)
    gshard += row(kFirstChoices)[e] * row(kGates)[e];
  gshard = sum_of<32>(gshard) * a.experts;
  if (threadIdx.x != 0) return;
  const bool any = count > 0.0;
  out.importance[blockIdx.x] = any ? static_cast<float>(importance) : 0.0F;
  out.load[blockIdx.x] = any ? static_cast<float>(load) : 0.0F;
  out.gshard[blockIdx.x] = any ? static_cast<float>(gshard / (count * count)) : 0.0F;
  out.z[blockIdx.x] = any ? static_cast<float>(squares / count) : 0.0F;
}

// --- backward --------------------------------------------------------------------------------------------------------

struct Scales {
  double importance, load, gshard, z;
};

/// What is the same for all tokens of a group, of an expert: kSlopes rows [E].
enum Slope {
  kOfCleanGate,  // d loss / d gates_clean through the importance
  kOfDensity,    // factor of exp(-r^2 / 2) in d loss / d logits
  kOfGate,       // d loss / d gates through the GShard loss
  kSlopes
};

/// scale * d CV2 / d v[e] = scale * (2 (v_e - mean) / (E mean^2) - 2 var / (E mean^3)). [derived]
__device__ __forceinline__ double variation_slope(double scale, const Spread& s, double v, int n) {
  if (s.mean == 0.0) return 0.0;
  return 2.0 * scale / (n * s.mean * s.mean) * (v - s.mean - s.variance / s.mean);
}

__global__ void __launch_bounds__(kTokenThreads)
    find_slopes(Groups a, const double* sums, Scales scales, float* slopes) {
  auto& shared = shared_memory<GroupSums>();
  add_runs(a, sums, shared);
  const double* const importance = shared.of_expert + kImportance * a.experts;
  const double* const load = shared.of_expert + kLoad * a.experts;
  const double* const first = shared.of_expert + kFirstChoices * a.experts;
  const double count = a.tokens;
  const Spread of_importance = spread_of(importance, a.experts), of_load = spread_of(load, a.experts);
  // `load` holds the sum of 2 q: dq / dz is twice that of a sum over the tokens' means
  const double density = std::numbers::inv_sqrtpi / std::numbers::sqrt2 / a.sigma * 2.0;
  float* const out = slopes + std::int64_t{blockIdx.x} * kSlopes * a.experts;
  for (int e = static_cast<int>(threadIdx.x); e < a.experts; e += kTokenThreads) {
    out[kOfCleanGate * a.experts + e] =
        a.importance ? static_cast<float>(variation_slope(scales.importance, of_importance, importance[e], a.experts))
                     : 0.0F;
    out[kOfDensity * a.experts + e] =
        a.load ? static_cast<float>(variation_slope(scales.load, of_load, load[e], a.experts) * density) : 0.0F;
    out[kOfGate * a.experts + e] =
        a.gshard ? static_cast<float>(scales.gshard * a.experts * first[e] / (count * count)) : 0.0F;
  }
}

/// dz[i] += p[i] (dp[i] - sum over e of p[e] dp[e])
template <int kLanes, int kPerLane>
__device__ __forceinline__ void add_softmax_backward(const float (&p)[kPerLane], const float (&dp)[kPerLane],
                                                     float (&dz)[kPerLane]) {
  float inner = 0.0F;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) inner = fmaf(p[i], dp[i], inner);
  inner = sum_of<kLanes>(inner);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) dz[i] = fmaf(p[i], dp[i] - inner, dz[i]);
}

/// Through z and through the threshold: c[e] = slope[e] exp(-r^2 / 2); dz[e] += c[e]; dz[kappa] -= sum of c. [derived]
template <int kLanes, int kPerLane>
__device__ __forceinline__ void add_load_backward(const Groups& a, std::int64_t token, int lane, const float* slopes,
                                                  const float (&z)[kPerLane], float (&dz)[kPerLane]) {
  const int threshold_expert = a.selected[token * a.choices + a.choices - 1];
  const double threshold = threshold_of(a, token);
  float slope[kPerLane];
  load_experts<kLanes>(slopes, lane, a.experts, slope);
  float total = 0.0F;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const auto r = static_cast<float>((threshold - static_cast<double>(z[i])) / a.sigma);
    const float c = slope[i] * expf(-0.5F * r * r);
    dz[i] += c;
    total += c;
  }
  total = sum_of<kLanes>(total);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (lane + kLanes * i == threshold_expert) dz[i] -= total;
  }
}

/// A team of lanes per token. `slopes`: nullptr where no loss needs them.
template <int kLanes, int kPerLane>
__global__ void __launch_bounds__(kTokenThreads) find_dlogits(Groups a, const float* dgate, const float* slopes,
                                                              float z_scale, float* dlogits, std::int64_t tokens) {
  const TokenLane<kLanes> at;
  const bool there = at.token < tokens;
  const std::int64_t token = there ? at.token : tokens - 1, first = token * a.experts;
  const float* const of_group = slopes != nullptr ? slopes + token / a.tokens * kSlopes * a.experts : nullptr;
  float p[kPerLane], dp[kPerLane] = {}, dz[kPerLane] = {};
  if (a.gshard) load_experts<kLanes>(of_group + kOfGate * a.experts, at.lane, a.experts, dp);
  for (int j = 0; j < a.choices; ++j) {
    const int expert = a.selected[token * a.choices + j];
    const float d = dgate[token * a.choices + j];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (at.lane + kLanes * i == expert) dp[i] += d;
    }
  }
  load_experts<kLanes>(a.gates + first, at.lane, a.experts, p);
  add_softmax_backward<kLanes>(p, dp, dz);
  if (a.importance || a.z) load_experts<kLanes>(a.gates_clean + first, at.lane, a.experts, p);
  if (a.importance) {
    load_experts<kLanes>(of_group + kOfCleanGate * a.experts, at.lane, a.experts, dp);
    add_softmax_backward<kLanes>(p, dp, dz);
  }
  float z[kPerLane];
  if (a.load || a.z) load_experts<kLanes>(a.logits + first, at.lane, a.experts, z);
  if (a.load) add_load_backward<kLanes>(a, token, at.lane, of_group + kOfDensity * a.experts, z, dz);
  if (a.z) {
    const float slope = z_scale * softmax<kLanes>(z, at.lane, a.experts, dp);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) dz[i] = fmaf(slope, p[i], dz[i]);
  }
  if (there) store_experts<kLanes>(dz, at.lane, a.experts, dlogits + first);
}

void launch_sum_runs(const Groups& a, std::int64_t groups, double* sums, cudaStream_t stream) {
  dispatch_experts(a.experts, [&]<int kLanes, int kPerLane>() {
    launch(sum_runs<kLanes, kPerLane>,
           {.grid = dim3(static_cast<unsigned>(groups * a.runs())),
            .block = dim3(kTokenThreads),
            .shared_bytes = sizeof(TeamsShared<kLanes, kPerLane>),
            .stream = stream},
           a, sums);
  });
}

Launch group_launch(std::int64_t groups, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(groups)),
          .block = dim3(kTokenThreads),
          .shared_bytes = sizeof(GroupSums),
          .stream = stream};
}

}  // namespace

void CudaOps::run(const RouterLossesForward& a) {
  const std::int64_t groups = a.logits.shape[0];
  Groups g = groups_of(a);
  if (a.valid) g.valid = data_of<std::uint8_t>(a.valid);
  g.importance = g.gshard = g.z = true;
  g.load = g.noise != nullptr;
  auto* const sums = workspace<double>(Scratch::a, groups * g.runs() * g.sums());
  launch_sum_runs(g, groups, sums, stream());
  launch(find_losses, group_launch(groups, stream()), g, sums,
         Losses{data_of<float>(a.importance), data_of<float>(a.load), data_of<float>(a.gshard), data_of<float>(a.z)});
}

void CudaOps::run(const RouterBackward& a) {
  const std::int64_t groups = a.logits.shape[0];
  Groups g = groups_of(a);
  g.importance = a.importance_scale != 0.0;
  g.load = a.load_scale != 0.0 && g.noise != nullptr;
  g.gshard = a.gshard_scale != 0.0;
  float* slopes = nullptr;
  if (g.importance || g.load || g.gshard) {
    auto* const sums = workspace<double>(Scratch::a, groups * g.runs() * g.sums());
    slopes = workspace<float>(Scratch::b, groups * kSlopes * g.experts);
    launch_sum_runs(g, groups, sums, stream());
    launch(find_slopes, group_launch(groups, stream()), g, sums,
           Scales{a.importance_scale, a.load_scale, a.gshard_scale, a.z_scale}, slopes);
  }
  g.z = a.z_scale != 0.0;
  const std::int64_t tokens = groups * g.tokens;
  dispatch_experts(g.experts, [&]<int kLanes, int kPerLane>() {
    launch(find_dlogits<kLanes, kPerLane>,
           {.grid = token_blocks<kLanes>(tokens), .block = dim3(kTokenThreads), .stream = stream()}, g,
           data_of<float>(a.dgate), slopes, static_cast<float>(2.0 * a.z_scale / g.tokens), data_of<float>(a.dlogits),
           tokens);
  });
}

}  // namespace vitrail::cuda
