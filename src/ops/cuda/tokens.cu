// From pixels to tokens, and from tokens to one row per image. All of it is movement: every verb reads and writes each
// element once, in fours.

#include <cstdint>

#include "gpu_intrinsics.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/fours.hpp"
#include "ops/cuda/leaf_sums.hpp"

namespace vitrail::cuda {

namespace {

// --- images ----------------------------------------------------------------------------------------------------------

// y = (x / 255) * 2 - 1, every step rounded to f32
struct Normalize {
  const std::uint8_t* images;
  float* y;
  template <bool aligned>
  __device__ void at(std::int64_t i, std::int64_t n) const {
    Four four = load_four<aligned>(images, i, n);
#pragma unroll
    for (float& x : four.v) x = x / 255.0F * 2.0F - 1.0F;
    store_four<aligned>(four, y, i, n);
  }
};

template <class T>
struct Cut {
  const float* images;
  T* patches;
  int grid_w;
  int patch_rows;
  int segment;  // columns of a patch times channels: what lies together in image and patch
  int width;    // columns of an image times channels
  std::int64_t height;
};

constexpr int kCutThreads = 256;

// A block cuts one row of patches of one image; four by four, as they lie in the image.
template <bool aligned, class T>
__global__ void __launch_bounds__(kCutThreads) cut_patches(Cut<T> a, int grid_h) {
  const std::int64_t image = blockIdx.x / grid_h, patch_row = blockIdx.x % grid_h;
  const float* from = a.images + (image * a.height + patch_row * a.patch_rows) * a.width;
  T* to = a.patches + std::int64_t{blockIdx.x} * a.grid_w * a.patch_rows * a.segment;
  const int fours = (a.segment + 3) / 4;  // of a segment
  const int count = a.patch_rows * a.grid_w * fours;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kCutThreads) {
    const int segment = i / fours, c = i % fours * 4;
    const int y = segment / a.grid_w, column = segment % a.grid_w;
    const Four four = load_four<aligned>(from + y * a.width + column * a.segment, c, a.segment);
    store_four<aligned>(four, to + (column * a.patch_rows + y) * a.segment, c, a.segment);
  }
}

// --- embedding -------------------------------------------------------------------------------------------------------

// x[b,t] = (class token, or patches[b, t - first]) + positions[t]
template <class T>
struct Embed {
  const T* patches;
  const float* class_token;  // or null
  const float* positions;    // or null
  float* x;
  int tokens;
  template <bool aligned>
  __device__ void at(std::int64_t row, std::int64_t c, std::int64_t width) const {
    const std::int64_t image = row / tokens, t = row % tokens, first = class_token == nullptr ? 0 : 1;
    Four four;
    if (t < first) {
      four = load_four<aligned>(class_token, c, width);
    } else {
      four = load_four<aligned>(patches + (image * (tokens - first) + t - first) * width, c, width);
    }
    if (positions != nullptr) {
      const Four place = load_four<aligned>(positions + t * width, c, width);
#pragma unroll
      for (int j = 0; j < 4; ++j) four.v[j] += place.v[j];
    }
    store_four<aligned>(four, x + row * width, c, width);
  }
};

template <class T>
struct EmbedGradient {
  const float* dx;
  T* dpatches;
  float* sums;  // [leaves summed D]
  int images;   // of a leaf
  int tokens;
  int first;   // 1 with a class token
  int summed;  // of how many tokens the sum over the images is wanted
  int width;
};

constexpr int kEmbedThreads = 256;
constexpr int kImagesAtOnce = 8;

// A thread takes four columns of one token of all images of a leaf, in their order.
template <bool aligned, class T>
__global__ void __launch_bounds__(kEmbedThreads) embed_backward(EmbedGradient<T> a) {
  const int fours = (a.width + 3) / 4;
  const std::int64_t i = std::int64_t{blockIdx.x} * kEmbedThreads + threadIdx.x;
  const std::int64_t t = i / fours, leaf = blockIdx.y;
  const int c = static_cast<int>(i % fours) * 4;
  if (t >= a.tokens) return;
  Four sum{};
  for (int b = 0; b < a.images; b += kImagesAtOnce) {
    Four dx[kImagesAtOnce];
#pragma unroll
    for (int k = 0; k < kImagesAtOnce; ++k) {
      if (b + k < a.images)
        dx[k] = load_four<aligned>(a.dx + ((leaf * a.images + b + k) * a.tokens + t) * a.width, c, a.width);
    }
#pragma unroll
    for (int k = 0; k < kImagesAtOnce; ++k) {
      if (b + k >= a.images) continue;
      const std::int64_t patch = (leaf * a.images + b + k) * (a.tokens - a.first) + t - a.first;
      if (t >= a.first) store_four<aligned>(dx[k], a.dpatches + patch * a.width, c, a.width);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.v[j] += dx[k].v[j];
    }
  }
  if (t < a.summed) store_four<aligned>(sum, a.sums + (leaf * a.summed + t) * a.width, c, a.width);
}

// --- pooling ---------------------------------------------------------------------------------------------------------

// y[b] = x[b,0]
struct TakeToken {
  const float* x;
  float* y;
  std::int64_t tokens;
  template <bool aligned>
  __device__ void at(std::int64_t row, std::int64_t c, std::int64_t width) const {
    store_four<aligned>(load_four<aligned>(x + row * tokens * width, c, width), y + row * width, c, width);
  }
};

// dx[b,0] = dy[b], dx[b,t] = 0 for t > 0
struct TakeTokenGradient {
  const float* dy;
  float* dx;
  std::int64_t tokens;
  template <bool aligned>
  __device__ void at(std::int64_t row, std::int64_t c, std::int64_t width) const {
    const std::int64_t image = row / tokens;
    Four four{};
    if (image * tokens == row) four = load_four<aligned>(dy + image * width, c, width);
    store_four<aligned>(four, dx + row * width, c, width);
  }
};

constexpr int kMeanWarps = 8;

struct MeanShared {
  Four sum[kMeanWarps][32];
};

// A warp adds every kMeanWarps-th token of 128 columns; then the warps' sums are added in order.
template <bool aligned>
__global__ void __launch_bounds__(kMeanWarps * 32) mean_of_tokens(const float* x, float* y, int tokens, int width) {
  auto& shared = shared_memory<MeanShared>();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int c = (static_cast<int>(blockIdx.y) * 32 + lane) * 4;
  Four sum{};
#pragma unroll 4
  for (int t = warp; t < tokens; t += kMeanWarps) {
    const Four four = load_four<aligned>(x + (std::int64_t{blockIdx.x} * tokens + t) * width, c, width);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum.v[j] += four.v[j];
  }
  shared.sum[warp][lane] = sum;
  __syncthreads();
  if (warp != 0) return;
  for (int w = 1; w < kMeanWarps; ++w) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum.v[j] += shared.sum[w][lane].v[j];
  }
#pragma unroll
  for (float& s : sum.v) s /= static_cast<float>(tokens);
  store_four<aligned>(sum, y + std::int64_t{blockIdx.x} * width, c, width);
}

// dx[b,t] = dy[b] / T
struct MeanGradient {
  const float* dy;
  float* dx;
  std::int64_t tokens;
  template <bool aligned>
  __device__ void at(std::int64_t row, std::int64_t c, std::int64_t width) const {
    Four four = load_four<aligned>(dy + row / tokens * width, c, width);
#pragma unroll
    for (float& d : four.v) d /= static_cast<float>(tokens);
    store_four<aligned>(four, dx + row * width, c, width);
  }
};

// --- mixup -----------------------------------------------------------------------------------------------------------

// y[l,i] = sum over j of weights[l,i,j] x[l, (i + j) mod B]
struct Mix {
  const float* x;
  const float* weights;
  float* y;
  std::int64_t images;  // of a leaf
  int mixed;
  template <bool aligned>
  __device__ void at(std::int64_t row, std::int64_t c, std::int64_t width) const {
    const std::int64_t first_of_leaf = row / images * images;
    std::int64_t other = row;
    Four sum{};
    for (int j = 0; j < mixed; ++j) {
      const float weight = weights[row * mixed + j];
      const Four four = load_four<aligned>(x + other * width, c, width);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum.v[k] = fmaf(weight, four.v[k], sum.v[k]);
      if (++other == first_of_leaf + images) other = first_of_leaf;
    }
    store_four<aligned>(sum, y + row * width, c, width);
  }
};

}  // namespace

void CudaOps::run(const NormalizeImages& a) {
  const Normalize work{data_of<std::uint8_t>(a.images), data_of<float>(a.y)};
  launch_on_elements(work, a.y.elements(), aligned_to_fours(work.images, work.y), stream());
}

void CudaOps::run(const PatchesForward& a) {
  const std::int64_t images = a.images.shape[0], height = a.images.shape[1], channels = a.images.shape[3];
  const std::int64_t grid_h = height / a.patch_rows, grid_w = a.images.shape[2] / a.patch_columns;
  dispatch_stored(a.patches.dtype, [&]<class T>() {
    const Cut<T> cut{data_of<float>(a.images),
                     data_of<T>(a.patches),
                     static_cast<int>(grid_w),
                     static_cast<int>(a.patch_rows),
                     static_cast<int>(a.patch_columns * channels),
                     static_cast<int>(a.images.shape[2] * channels),
                     height};
    const bool aligned = cut.width % 4 == 0 && rows_aligned_to_fours(cut.segment, cut.images, cut.patches);
    dispatch_bool(aligned, [&]<bool fours>() {
      launch(cut_patches<fours, T>,
             {.grid = static_cast<unsigned>(images * grid_h), .block = kCutThreads, .stream = stream()}, cut,
             static_cast<int>(grid_h));
    });
  });
}

void CudaOps::run(const EmbedTokensForward& a) {
  const std::int64_t tokens = a.x.shape[2], width = a.x.shape[3];
  dispatch_stored(a.patches.dtype, [&]<class T>() {
    const Embed<T> work{data_of<T>(a.patches), data_of<float>(a.class_token), data_of<float>(a.positions),
                        data_of<float>(a.x), static_cast<int>(tokens)};
    const bool aligned = rows_aligned_to_fours(width, work.patches, work.class_token, work.positions, work.x);
    launch_on_rows(work, a.x.shape[0] * a.x.shape[1] * tokens, width, aligned, stream());
  });
}

void CudaOps::run(const EmbedTokensBackward& a) {
  const std::int64_t leaves = a.dx.shape[0], tokens = a.dx.shape[2], width = a.dx.shape[3];
  const std::int64_t first = a.dclass_token ? 1 : 0, summed = a.dpositions ? tokens : first;
  auto* sums = workspace<float>(Scratch::a, leaves * summed * width);
  dispatch_stored(a.dpatches.dtype, [&]<class T>() {
    const EmbedGradient<T> gradient{data_of<float>(a.dx),
                                    data_of<T>(a.dpatches),
                                    sums,
                                    static_cast<int>(a.dx.shape[1]),
                                    static_cast<int>(tokens),
                                    static_cast<int>(first),
                                    static_cast<int>(summed),
                                    static_cast<int>(width)};
    const std::int64_t threads = tokens * ((width + 3) / 4);
    const dim3 grid(static_cast<unsigned>((threads + kEmbedThreads - 1) / kEmbedThreads),
                    static_cast<unsigned>(leaves));
    dispatch_bool(rows_aligned_to_fours(width, gradient.dx, gradient.dpatches), [&]<bool aligned>() {
      launch(embed_backward<aligned, T>, {.grid = grid, .block = kEmbedThreads, .stream = stream()}, gradient);
    });
  });
  const SumPart dclass_token{data_of<float>(a.dclass_token), 0, first * width};
  const SumPart dpositions{data_of<float>(a.dpositions), 0, a.dpositions ? tokens * width : 0};
  launch_tree_of_leaves(sums, leaves, summed * width, dclass_token, dpositions, stream());
}

void CudaOps::run(const TakeTokenForward& a) {
  const TakeToken work{data_of<float>(a.x), data_of<float>(a.y), a.x.shape[1]};
  const std::int64_t width = a.x.shape[2];
  launch_on_rows(work, a.x.shape[0], width, rows_aligned_to_fours(width, work.x, work.y), stream());
}

void CudaOps::run(const TakeTokenBackward& a) {
  const TakeTokenGradient work{data_of<float>(a.dy), data_of<float>(a.dx), a.dx.shape[1]};
  const std::int64_t width = a.dx.shape[2];
  launch_on_rows(work, a.dx.shape[0] * work.tokens, width, rows_aligned_to_fours(width, work.dy, work.dx), stream());
}

void CudaOps::run(const MeanTokensForward& a) {
  const std::int64_t images = a.x.shape[0], tokens = a.x.shape[1], width = a.x.shape[2];
  const dim3 grid(static_cast<unsigned>(images), static_cast<unsigned>((width + 127) / 128));
  const auto* x = data_of<float>(a.x);
  auto* y = data_of<float>(a.y);
  dispatch_bool(rows_aligned_to_fours(width, x, y), [&]<bool aligned>() {
    launch(mean_of_tokens<aligned>,
           {.grid = grid, .block = kMeanWarps * 32, .shared_bytes = sizeof(MeanShared), .stream = stream()}, x, y,
           static_cast<int>(tokens), static_cast<int>(width));
  });
}

void CudaOps::run(const MeanTokensBackward& a) {
  const MeanGradient work{data_of<float>(a.dy), data_of<float>(a.dx), a.dx.shape[1]};
  const std::int64_t width = a.dx.shape[2];
  launch_on_rows(work, a.dx.shape[0] * work.tokens, width, rows_aligned_to_fours(width, work.dy, work.dx), stream());
}

void CudaOps::run(const MixImages& a) {
  const Mix work{data_of<float>(a.x), data_of<float>(a.weights), data_of<float>(a.y), a.x.shape[1],
                 static_cast<int>(a.weights.shape[2])};
  const std::int64_t width = a.x.shape[2];
  launch_on_rows(work, a.x.shape[0] * a.x.shape[1], width, rows_aligned_to_fours(width, work.x, work.y), stream());
}

}  // namespace vitrail::cuda
