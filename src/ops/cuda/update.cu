// Sums of gradients, their norm, and AdamW, SGD and running averages: one launch for all blocks of a slice.

#include <cmath>

#include "base/bf16.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/update_blocks.hpp"

namespace vitrail::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// --- every element alone ---------------------------------------------------------------------------------------------

// y = y + x
struct Add {
  const float* x;
  float* y;
  template <bool aligned>
  __device__ void at(std::int64_t i, std::int64_t n) const {
    Four four = load_four<aligned>(y, i, n);
    const Four other = load_four<aligned>(x, i, n);
#pragma unroll
    for (int j = 0; j < 4; ++j) four.v[j] += other.v[j];
    store_four<aligned>(four, y, i, n);
  }
};

// y = decay y + (1 - decay) x
struct Average {
  const float* x;
  const std::int32_t* halt;
  float decay, rest;
  float* y;
  template <bool aligned>
  __device__ void at(std::int64_t i, std::int64_t n) const {
    if (halt != nullptr && *halt != 0) return;
    Four four = load_four<aligned>(y, i, n);
    const Four other = load_four<aligned>(x, i, n);
#pragma unroll
    for (int j = 0; j < 4; ++j) four.v[j] = fmaf(rest, other.v[j], decay * four.v[j]);
    store_four<aligned>(four, y, i, n);
  }
};

__global__ void set_one(std::int32_t* finite) { *finite = 1; }

// Whoever sees a number that is not finite writes the same 0.
struct Finite {
  const float* x;
  std::int32_t* finite;
  template <bool aligned>
  __device__ void at(std::int64_t i, std::int64_t n) const {
    const Four four = load_four<aligned>(x, i, n);
    bool all = true;
#pragma unroll
    for (int j = 0; j < 4; ++j) all = all && isfinite(four.v[j]);
    if (!all) *finite = 0;
  }
};

// --- sums ------------------------------------------------------------------------------------------------------------

struct SumShared {
  double of_warps[kWarps];
};

// A thread adds up fours that lie kThreads fours apart, counted from the beginning of the block: whether they are
// aligned changes how they are read, not the order.
__global__ void __launch_bounds__(kThreads) square_sums(const float* x, const std::int64_t* block_begin, double* sums) {
  const std::int64_t begin = block_begin[blockIdx.x], n = block_begin[blockIdx.x + 1] - begin;
  const float* const of_block = x + begin;
  const bool aligned = reinterpret_cast<std::uintptr_t>(of_block) % (4 * sizeof(float)) == 0;
  double sum = 0.0;
#pragma unroll 4
  for (std::int64_t i = std::int64_t{threadIdx.x} * 4; i < n; i += kThreads * 4) {
    const Four four = aligned && i + 4 <= n ? load_four<true>(of_block, i, n) : load_four<false>(of_block, i, n);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum = fma(static_cast<double>(four.v[j]), static_cast<double>(four.v[j]), sum);
  }
  sum = sum_of_block(sum, shared_memory<SumShared>().of_warps);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

constexpr int kNormThreads = 1024;

struct NormShared {
  double of_warps[kNormThreads / 32];
  std::int32_t odd[kNormThreads / 32];
};

struct Norm {
  const double* sums;
  const std::int64_t* order;
  const double* weights;
  std::int64_t places, n;
  double clip_norm;
  double* norm;
  double* scale;
  std::int32_t* halt;
};

// Thread t takes summands t, t + 1024 ...; the order depends on their number alone.
__global__ void __launch_bounds__(kNormThreads) take_norm(const Norm a) {
  auto& shared = shared_memory<NormShared>();
  double squares = 0.0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < a.n; i += kNormThreads) squares += a.sums[a.order[i]] * a.weights[i];
  bool finite = true;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < a.places; i += kNormThreads) finite = finite && isfinite(a.sums[i]);
  const unsigned odd = __ballot_sync(0xFFFFFFFFU, !finite);
  if (threadIdx.x % 32 == 0) shared.odd[threadIdx.x / 32] = odd != 0 ? 1 : 0;
  squares = sum_of_block(squares, shared.of_warps);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(squares);
  finite = isfinite(norm);
  for (const std::int32_t of_warp : shared.odd) finite = finite && of_warp == 0;
  *a.norm = norm;
  *a.scale = a.clip_norm > 0.0 && norm >= a.clip_norm ? a.clip_norm / norm : 1.0;
  if (!finite) *a.halt = 1;
}

// --- updates by blocks -----------------------------------------------------------------------------------------------

constexpr int kParts = 4;  // of a block of parameters, that blocks of threads take
constexpr int kPartElements = 4096;

/// The blocks of a slice, on the device.
struct Blocks {
  const std::int64_t* begin;
  const double* decay;
  const double* multiplier;
  const std::uint8_t* frozen;
  StepScalars scalars;
};

template <class Step>
Blocks blocks_of(const Step& a) {
  return {data_of<std::int64_t>(a.block_begin), data_of<double>(a.decay), data_of<double>(a.multiplier),
          data_of<std::uint8_t>(a.frozen), scalars_of(a)};
}

/// What a block gives to its elements.
struct OfBlock {
  std::int64_t begin, end;
  float scale, decay;
  bool frozen;
};

/// work.at<aligned>(i, block) for every fourth element of every block; the first and the last four of a block may reach
/// beyond it.
template <bool aligned, class Work>
__global__ void __launch_bounds__(kThreads) on_blocks(Work work, Blocks blocks) {
  if (blocks.scalars.halted()) return;
  const auto number = blockIdx.x;
  const OfBlock block{blocks.begin[number], blocks.begin[number + 1], blocks.scalars.scale(blocks.multiplier[number]),
                      static_cast<float>(blocks.decay[number]), blocks.frozen[number] != 0};
  const std::int64_t first = block.begin / 4 * 4 + std::int64_t{threadIdx.x} * 4;
  for (std::int64_t part = first + std::int64_t{blockIdx.y} * kPartElements; part < block.end;
       part += kParts * kPartElements) {
#pragma unroll
    for (int i = 0; i < kPartElements; i += kThreads * 4) {
      if (part + i < block.end) work.template at<aligned>(part + i, block);
    }
  }
}

template <class Work>
void launch_on_blocks(const Work& work, const Blocks& blocks, std::int64_t count, bool aligned, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(count), count > 0 ? kParts : 0);
  dispatch_bool(aligned, [&]<bool a>() {
    launch(on_blocks<a, Work>, {.grid = grid, .block = kThreads, .stream = stream}, work, blocks);
  });
}

struct AdamW {
  const float* gradient;
  float* parameter;
  float* m;
  float* v;
  Momentum momentum;
  float clip, rest1, beta2, rest2, correction1, correction2, epsilon, learning_rate;

  template <bool aligned>
  __device__ void at(std::int64_t i, const OfBlock& block) const {
    const Four g = load_in_run<aligned>(gradient, i, block.begin, block.end);
    Four m4 = load_in_run<aligned>(m, i, block.begin, block.end);
    Four v4 = load_in_run<aligned>(v, i, block.begin, block.end);
    Four p = load_in_run<aligned>(parameter, i, block.begin, block.end);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float d = clipped(g.v[j] * block.scale, clip);
      const float moment = fmaf(rest1, d, momentum.decayed(m4.v[j]));
      v4.v[j] = fmaf(rest2, d * d, beta2 * v4.v[j]);
      m4.v[j] = momentum.stored(moment);
      const float u = moment * correction1 / (sqrtf(v4.v[j] * correction2) + epsilon);
      p.v[j] = moved(p.v[j], u, block.decay, learning_rate);
    }
    store_in_run<aligned>(m4, m, i, block.begin, block.end);
    store_in_run<aligned>(v4, v, i, block.begin, block.end);
    if (!block.frozen) store_in_run<aligned>(p, parameter, i, block.begin, block.end);
  }
};

struct Sgd {
  const float* gradient;
  float* parameter;
  float* trace;  // or null
  Momentum momentum;
  float clip, learning_rate;

  template <bool aligned>
  __device__ void at(std::int64_t i, const OfBlock& block) const {
    Four u = load_in_run<aligned>(gradient, i, block.begin, block.end);
#pragma unroll
    for (float& x : u.v) x = clipped(x * block.scale, clip);
    if (trace != nullptr) {
      Four kept = load_in_run<aligned>(trace, i, block.begin, block.end);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        u.v[j] += momentum.decayed(kept.v[j]);
        kept.v[j] = momentum.stored(u.v[j]);
      }
      store_in_run<aligned>(kept, trace, i, block.begin, block.end);
    }
    if (block.frozen) return;
    Four p = load_in_run<aligned>(parameter, i, block.begin, block.end);
#pragma unroll
    for (int j = 0; j < 4; ++j) p.v[j] = moved(p.v[j], u.v[j], block.decay, learning_rate);
    store_in_run<aligned>(p, parameter, i, block.begin, block.end);
  }
};

float decay_of(double momentum, bool bf16) { return static_cast<float>(bf16 ? round_to_bf16(momentum) : momentum); }

}  // namespace

void CudaOps::run(const Accumulate& a) {
  const Add work{data_of<float>(a.x), data_of<float>(a.y)};
  launch_on_elements(work, a.y.elements(), aligned_to_fours(work.x, work.y), stream());
}

void CudaOps::run(const RunningAverage& a) {
  const Average work{data_of<float>(a.x), data_of<std::int32_t>(a.halt), static_cast<float>(a.decay),
                     static_cast<float>(1.0 - a.decay), data_of<float>(a.y)};
  launch_on_elements(work, a.y.elements(), aligned_to_fours(work.x, work.y), stream());
}

void CudaOps::run(const AllFinite& a) {
  const Finite work{data_of<float>(a.x), data_of<std::int32_t>(a.finite)};
  launch(set_one, {.stream = stream()}, work.finite);
  launch_on_elements(work, a.x.elements(), aligned_to_fours(work.x), stream());
}

void CudaOps::run(const BlockSquareSums& a) {
  launch(square_sums,
         {.grid = static_cast<unsigned>(a.sums.elements()),
          .block = kThreads,
          .shared_bytes = sizeof(SumShared),
          .stream = stream()},
         data_of<float>(a.x), data_of<std::int64_t>(a.block_begin), data_of<double>(a.sums));
}

void CudaOps::run(const ClipScale& a) {
  const Norm work{data_of<double>(a.sums),      data_of<std::int64_t>(a.order),
                  data_of<double>(a.weights),   a.sums.elements(),
                  a.order.elements(),           a.clip_norm,
                  data_of<double>(a.norm),      data_of<double>(a.scale),
                  data_of<std::int32_t>(a.halt)};
  launch(take_norm, {.block = kNormThreads, .shared_bytes = sizeof(NormShared), .stream = stream()}, work);
}

void CudaOps::run(const AdamWStep& a) {
  const auto updates = static_cast<double>(a.updates);
  const AdamW work{.gradient = data_of<float>(a.gradient),
                   .parameter = data_of<float>(a.parameter),
                   .m = data_of<float>(a.m),
                   .v = data_of<float>(a.v),
                   .momentum = {decay_of(a.beta1, a.bf16_moment), a.bf16_moment},
                   .clip = clip_of(a.clip_absolute),
                   .rest1 = static_cast<float>(1.0 - a.beta1),
                   .beta2 = static_cast<float>(a.beta2),
                   .rest2 = static_cast<float>(1.0 - a.beta2),
                   .correction1 = static_cast<float>(1.0 / (1.0 - std::pow(a.beta1, updates))),
                   .correction2 = static_cast<float>(1.0 / (1.0 - std::pow(a.beta2, updates))),
                   .epsilon = static_cast<float>(a.epsilon),
                   .learning_rate = static_cast<float>(a.learning_rate)};
  launch_on_blocks(work, blocks_of(a), a.decay.elements(),
                   aligned_to_fours(work.gradient, work.parameter, work.m, work.v), stream());
}

void CudaOps::run(const SgdStep& a) {
  const Sgd work{data_of<float>(a.gradient), data_of<float>(a.parameter),
                 data_of<float>(a.trace),    {decay_of(a.momentum, a.bf16_trace), a.bf16_trace},
                 clip_of(a.clip_absolute),   static_cast<float>(a.learning_rate)};
  launch_on_blocks(work, blocks_of(a), a.decay.elements(), aligned_to_fours(work.gradient, work.parameter, work.trace),
                   stream());
}

}  // namespace vitrail::cuda
