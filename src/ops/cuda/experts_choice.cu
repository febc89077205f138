// Experts that choose tokens, and tokens whose experts are shuffled.

#include <algorithm>

#include "base/philox.hpp"
#include "device/cuda/launch.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/block_sort.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/gates.hpp"

namespace vitrail::cuda {
namespace {

constexpr int kSortThreads = 1024;    // of a block, at most
constexpr int kSharedKeys = 1 << 14;  // larger groups are sorted in global memory

/// The gates; and a choice of every expert, which nobody has answered yet.
template <int kLanes, int kPerLane>
__global__ void __launch_bounds__(kTokenThreads) offer_tokens(Gates gates, std::int32_t* selected, std::int32_t* slot) {
  const TokenLane<kLanes> at;
  float p[kPerLane];
  find_gates<kLanes>(gates, at, p);
  if (at.token >= gates.tokens) return;
  for (int e = at.lane; e < gates.experts; e += kLanes) {
    selected[at.token * gates.experts + e] = e;
    slot[at.token * gates.experts + e] = -1;
  }
}

struct TakeTokens {
  const float* gates;         // [groups S E]
  const std::uint8_t* valid;  // [groups S], or nullptr
  std::int32_t* slot;         // [groups S E]
  int tokens, experts, capacity;
  int keys;                // S, up to a power of two
  std::uint64_t* scratch;  // [groups E keys] for groups that do not fit shared memory
};

template <int count>
struct SharedKeys {
  std::uint64_t keys[count];
};

/// Block group * E + expert sorts the group's tokens by their gates.
template <int count>
__global__ void __launch_bounds__(kSortThreads) take_tokens(TakeTokens a) {
  const int expert = static_cast<int>(blockIdx.x) % a.experts;
  const std::int64_t first = std::int64_t{static_cast<int>(blockIdx.x) / a.experts} * a.tokens;
  std::uint64_t* const keys =
      a.scratch != nullptr ? a.scratch + std::int64_t{blockIdx.x} * a.keys : shared_memory<SharedKeys<count>>().keys;
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  for (int s = thread; s < a.keys; s += threads) {
    const bool takes_part = s < a.tokens && (a.valid == nullptr || a.valid[first + s] != 0);
    keys[s] = takes_part ? key_of(descending(a.gates[(first + s) * a.experts + expert]), s) : kNoKey;
  }
  __syncthreads();
  sort_keys(keys, a.keys);
  for (int place = thread; place < a.capacity; place += threads) {
    if (keys[place] != kNoKey) a.slot[(first + place_of(keys[place])) * a.experts + expert] = place;
  }
}

template <int count>
void launch_take_tokens(const TakeTokens& a, std::int64_t groups, cudaStream_t stream) {
  launch(take_tokens<count>,
         {.grid = dim3(static_cast<unsigned>(groups * a.experts)),
          .block = dim3(static_cast<unsigned>(std::clamp(a.keys / 2, 32, kSortThreads))),
          .shared_bytes = a.scratch != nullptr ? 0 : sizeof(SharedKeys<count>),
          .stream = stream},
         a);
}

/// y[t,i] = x[t,p(i)]: an expert goes where as many keys are smaller than its own.
template <int kLanes, int kPerLane>
__global__ void __launch_bounds__(kTokenThreads)
    shuffle_row(const float* x, float* y, std::int64_t tokens, int experts, Philox random, std::uint64_t first_token) {
  const TokenLane<kLanes> at;
  const std::uint64_t index = (first_token + static_cast<std::uint64_t>(at.token)) * static_cast<unsigned>(experts);
  std::uint64_t keys[kPerLane];
  int smaller[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = at.lane + kLanes * i;
    keys[i] = expert < experts ? key_of(random.bits(index + static_cast<unsigned>(expert)), expert) : kNoKey;
    smaller[i] = 0;
  }
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    for (int other = 0; other < kLanes; ++other) {
      const std::uint64_t key = __shfl_sync(kAllLanes, keys[j], other, kLanes);
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) smaller[i] += key < keys[i] ? 1 : 0;
    }
  }
  if (at.token >= tokens) return;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = at.lane + kLanes * i;
    if (expert < experts) y[at.token * experts + smaller[i]] = x[at.token * experts + expert];
  }
}

}  // namespace

void CudaOps::run(const RouteExpertsChoice& a) {
  const std::int64_t groups = a.gates.shape[0], tokens = a.gates.shape[1], experts = a.gates.shape[2];
  const Gates gates = gates_of(a);
  if (a.slot.elements() == 0) return;
  auto* const slot = data_of<std::int32_t>(a.slot);
  dispatch_experts(experts, [&]<int kLanes, int kPerLane>() {
    launch(offer_tokens<kLanes, kPerLane>,
           {.grid = token_blocks<kLanes>(gates.tokens), .block = dim3(kTokenThreads), .stream = stream()}, gates,
           data_of<std::int32_t>(a.selected), slot);
  });
  const auto keys = static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(tokens)));
  const TakeTokens take{gates.gates,
                        a.valid ? data_of<std::uint8_t>(a.valid) : nullptr,
                        slot,
                        static_cast<int>(tokens),
                        static_cast<int>(experts),
                        static_cast<int>(a.capacity),
                        keys,
                        keys > kSharedKeys ? workspace<std::uint64_t>(Scratch::b, groups * experts * keys) : nullptr};
  if (keys <= 2048) {
    launch_take_tokens<2048>(take, groups, stream());
  } else {
    launch_take_tokens<kSharedKeys>(take, groups, stream());
  }
}

void CudaOps::run(const ShuffleExperts& a) {
  const std::int64_t tokens = a.x.shape[0], experts = a.x.shape[1];
  dispatch_experts(experts, [&]<int kLanes, int kPerLane>() {
    launch(shuffle_row<kLanes, kPerLane>,
           {.grid = token_blocks<kLanes>(tokens), .block = dim3(kTokenThreads), .stream = stream()},
           data_of<float>(a.x), data_of<float>(a.y), tokens, static_cast<int>(experts),
           Philox(a.draw.seed, Purpose::random_experts, a.draw.step, a.draw.layer), a.draw.first_token);
  });
}

}  // namespace vitrail::cuda
