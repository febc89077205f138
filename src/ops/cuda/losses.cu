// Targets, losses and predictions. A block takes the logits of one image; what is summed over its classes is summed in
// double, in an order that depends on their number alone.

#include <limits>

#include "gpu_intrinsics.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/fours.hpp"

namespace vitrail::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

struct Add {
  __device__ double operator()(double a, double b) const { return a + b; }
};
struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// The values of all threads of a block put together, warp by warp in order; every thread gets the result.
template <class T, class Join>
__device__ T joined(T value, T (&of_warps)[kWarps], const Join& join) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value = join(value, __shfl_xor_sync(0xFFFFFFFFU, value, mask));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_warps[0];
  for (int w = 1; w < kWarps; ++w) value = join(value, of_warps[w]);
  return value;
}

// --- targets ---------------------------------------------------------------------------------------------------------

struct Targets {
  const std::int32_t* labels;
  int count;  // labels of an image
  float on, off;
  float* targets;
  template <bool aligned>
  __device__ void at(std::int64_t row, std::int64_t c, std::int64_t classes) const {
    Four four{{off, off, off, off}};
    for (int l = 0; l < count; ++l) {
      const std::int64_t away = labels[row * count + l] - c;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (away == j) four.v[j] = on;
      }
    }
    store_four<aligned>(four, targets + row * classes, c, classes);
  }
};

// --- losses ----------------------------------------------------------------------------------------------------------

struct Loss {
  const float* logits;
  const float* targets;
  float scale;
  float* loss;
  float* dlogits;  // or null
  int classes;
};

struct SoftmaxShared {
  float largest[kWarps];
  double exps[kWarps], targets[kWarps], loss[kWarps];
};

// loss = sum y (lse - a), differences summed: lse * sum y - sum y a would cancel
template <bool aligned>
__global__ void __launch_bounds__(kThreads) softmax_loss(Loss a) {
  auto& shared = shared_memory<SoftmaxShared>();
  const std::int64_t begin = std::int64_t{blockIdx.x} * a.classes;
  const int first = static_cast<int>(threadIdx.x) * 4;
  float largest = -std::numeric_limits<float>::infinity();
#pragma unroll 4
  for (int c = first; c < a.classes; c += 4 * kThreads) {
    const Four z = load_four<aligned>(a.logits + begin, c, a.classes);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (c + j < a.classes) largest = fmaxf(largest, z.v[j]);
    }
  }
  largest = joined(largest, shared.largest, Larger{});

  double exps = 0.0, targets = 0.0;
#pragma unroll 4
  for (int c = first; c < a.classes; c += 4 * kThreads) {
    const Four z = load_four<aligned>(a.logits + begin, c, a.classes);
    const Four y = load_four<aligned>(a.targets + begin, c, a.classes);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      exps += c + j < a.classes ? static_cast<double>(expf(z.v[j] - largest)) : 0.0;
      targets += static_cast<double>(y.v[j]);
    }
  }
  exps = joined(exps, shared.exps, Add{});
  targets = joined(targets, shared.targets, Add{});

  const double log_exps = log(exps);
  const auto softmax_scale = static_cast<float>(targets / exps);
  double loss = 0.0;
  for (int c = first; c < a.classes; c += 4 * kThreads) {
    const Four z = load_four<aligned>(a.logits + begin, c, a.classes);
    const Four y = load_four<aligned>(a.targets + begin, c, a.classes);
    Four dz;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float away = z.v[j] - largest;
      if (c + j < a.classes) loss += static_cast<double>(y.v[j]) * (log_exps - static_cast<double>(away));
      dz.v[j] = a.scale * fmaf(expf(away), softmax_scale, -y.v[j]);
    }
    if (a.dlogits != nullptr) store_four<aligned>(dz, a.dlogits + begin, c, a.classes);
  }
  loss = joined(loss, shared.loss, Add{});
  if (threadIdx.x == 0) a.loss[blockIdx.x] = static_cast<float>(loss);
}

struct SigmoidShared {
  double loss[kWarps];
};

// -[y log sig(z) + (1-y) log sig(-z)] = max(z, 0) - z y + log(1 + e^-|z|)
template <bool aligned>
__global__ void __launch_bounds__(kThreads) sigmoid_loss(Loss a) {
  auto& shared = shared_memory<SigmoidShared>();
  const std::int64_t begin = std::int64_t{blockIdx.x} * a.classes;
  double loss = 0.0;
  for (int c = static_cast<int>(threadIdx.x) * 4; c < a.classes; c += 4 * kThreads) {
    const Four z = load_four<aligned>(a.logits + begin, c, a.classes);
    const Four y = load_four<aligned>(a.targets + begin, c, a.classes);
    Four dz;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float e = expf(-fabsf(z.v[j]));
      const double positive = z.v[j] < 0.0F ? 0.0 : static_cast<double>(z.v[j]);  // NaN stays NaN
      const double term = positive - static_cast<double>(z.v[j]) * static_cast<double>(y.v[j]);
      if (c + j < a.classes) loss += term + static_cast<double>(log1pf(e));
      const float larger = 1.0F / (1.0F + e);  // the sigmoid of |z|
      dz.v[j] = a.scale * ((z.v[j] < 0.0F ? e * larger : larger) - y.v[j]);
    }
    if (a.dlogits != nullptr) store_four<aligned>(dz, a.dlogits + begin, c, a.classes);
  }
  loss = joined(loss, shared.loss, Add{});
  if (threadIdx.x == 0) a.loss[blockIdx.x] = static_cast<float>(loss);
}

// --- predictions -----------------------------------------------------------------------------------------------------

/// A class and its logit. Before any number was seen, `best` is none.
struct Candidate {
  static constexpr int kNone = std::numeric_limits<int>::max();
  float logit;
  int best;
};

/// The one with the larger logit, of equals the lower class.
__device__ Candidate better(Candidate a, Candidate b) {
  if (a.best == Candidate::kNone) return b;
  if (b.best == Candidate::kNone || a.logit > b.logit) return a;
  return b.logit > a.logit || b.best < a.best ? b : a;
}

struct PredictShared {
  Candidate of_warps[kWarps];
};

__global__ void __launch_bounds__(kThreads) largest_logit(const float* logits, std::int32_t* predicted, int classes) {
  auto& shared = shared_memory<PredictShared>();
  const float* row = logits + std::int64_t{blockIdx.x} * classes;
  Candidate mine{0.0F, Candidate::kNone};
#pragma unroll 4
  for (int c = static_cast<int>(threadIdx.x); c < classes; c += kThreads) {
    const float logit = row[c];
    if (logit == logit) mine = better(mine, {logit, c});  // not NaN
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const float logit = __shfl_xor_sync(0xFFFFFFFFU, mine.logit, mask);
    mine = better(mine, {logit, __shfl_xor_sync(0xFFFFFFFFU, mine.best, mask)});
  }
  if (threadIdx.x % 32 == 0) shared.of_warps[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) mine = better(mine, shared.of_warps[w]);
  predicted[blockIdx.x] = mine.best == Candidate::kNone ? 0 : mine.best;
}

template <class Verb>
Loss loss_of(const Verb& a) {
  return {data_of<float>(a.logits), data_of<float>(a.targets), static_cast<float>(a.scale),
          data_of<float>(a.loss),   data_of<float>(a.dlogits), static_cast<int>(a.logits.shape[1])};
}

}  // namespace

void CudaOps::run(const OneHot& a) {
  const Targets work{data_of<std::int32_t>(a.labels), static_cast<int>(a.labels.shape[1]), static_cast<float>(a.on),
                     static_cast<float>(a.off), data_of<float>(a.targets)};
  const std::int64_t classes = a.targets.shape[1];
  launch_on_rows(work, a.targets.shape[0], classes, rows_aligned_to_fours(classes, work.targets), stream());
}

void CudaOps::run(const SoftmaxCrossEntropy& a) {
  const Loss loss = loss_of(a);
  const auto images = static_cast<unsigned>(a.logits.shape[0]);
  dispatch_bool(rows_aligned_to_fours(loss.classes, loss.logits, loss.targets, loss.dlogits), [&]<bool aligned>() {
    launch(softmax_loss<aligned>,
           {.grid = images, .block = kThreads, .shared_bytes = sizeof(SoftmaxShared), .stream = stream()}, loss);
  });
}

void CudaOps::run(const SigmoidCrossEntropy& a) {
  const Loss loss = loss_of(a);
  const auto images = static_cast<unsigned>(a.logits.shape[0]);
  dispatch_bool(rows_aligned_to_fours(loss.classes, loss.logits, loss.targets, loss.dlogits), [&]<bool aligned>() {
    launch(sigmoid_loss<aligned>,
           {.grid = images, .block = kThreads, .shared_bytes = sizeof(SigmoidShared), .stream = stream()}, loss);
  });
}

void CudaOps::run(const Predict& a) {
  launch(largest_logit,
         {.grid = static_cast<unsigned>(a.logits.shape[0]),
          .block = kThreads,
          .shared_bytes = sizeof(PredictShared),
          .stream = stream()},
         data_of<float>(a.logits), data_of<std::int32_t>(a.predicted), static_cast<int>(a.logits.shape[1]));
}

}  // namespace vitrail::cuda
