// Dropout, bfloat16 and what else treats every element alone.

#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/fours.hpp"
#include "ops/dropout_mask.hpp"

namespace vitrail::cuda {

namespace {

// --- dropout ---------------------------------------------------------------------------------------------------------

/// How the indices of four elements are found.
enum class Draws {
  in_a_row,  // first + i, a multiple of 4: the four words of one counter
  in_runs,   // the same, but runs (of a multiple of 4) begin anywhere at a multiple of 4
  any
};

// y = residual + factor * x
template <class X, class Y, Draws draws>
struct Drop {
  const X* x;             // or null: 1; may be y
  const float* residual;  // or null; may be y
  Y* y;
  DropoutMask mask;
  std::uint64_t first;
  float scale;

  [[nodiscard]] __device__ float factor(std::uint32_t bits) const { return bits >= mask.least() ? scale : 0.0F; }

  __device__ void draw(std::int64_t i, Four& four) const {
    if constexpr (draws != Draws::any) {
      const std::uint64_t index = draws == Draws::in_a_row ? first + static_cast<std::uint64_t>(i) : mask.index_of(i);
      const auto words = mask.random().words(index / 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) four.v[j] = factor(words[static_cast<std::size_t>(j)]);
    } else {
      const std::uint64_t begin = mask.index_of(i);
      if (mask.index_of(i + 3) == begin) {  // they live or die together
        const float shared = factor(mask.random().bits(begin));
#pragma unroll
        for (float& f : four.v) f = shared;
        return;
      }
      std::uint64_t counter = begin / 4;
      auto words = mask.random().words(counter);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::uint64_t index = mask.index_of(i + j);
        if (index / 4 != counter) {
          counter = index / 4;
          words = mask.random().words(counter);
        }
        const auto lane = static_cast<int>(index % 4);
        four.v[j] = factor(lane < 2 ? (lane == 0 ? words[0] : words[1]) : (lane == 2 ? words[2] : words[3]));
      }
    }
  }

  template <bool aligned>
  __device__ void at(std::int64_t i, std::int64_t n) const {
    Four four{{1.0F, 1.0F, 1.0F, 1.0F}}, sum{}, factors{{scale, scale, scale, scale}};
    if (x != nullptr) four = load_four<aligned>(x, i, n);
    if (residual != nullptr) sum = load_four<aligned>(residual, i, n);
    if (!mask.keeps_all()) draw(i, factors);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum.v[j] = fmaf(factors.v[j], four.v[j], sum.v[j]);
    store_four<aligned>(sum, y, i, n);
  }
};

Draws draws_of(const DropoutDraw& draw) {
  if (draw.share != 1 || draw.first % 4 != 0) return Draws::any;
  if (draw.run == draw.stride) return Draws::in_a_row;
  return draw.run % 4 == 0 && draw.stride % 4 == 0 ? Draws::in_runs : Draws::any;
}

template <class X, class Y, Draws draws>
void launch_dropout(const Dropout& a, cudaStream_t stream) {
  const DropoutMask mask(a.draw);
  const Drop<X, Y, draws> work{data_of<X>(a.x), data_of<float>(a.residual),      data_of<Y>(a.y), mask,
                               a.draw.first,    static_cast<float>(mask.scale())};
  launch_on_elements(work, a.y.elements(), aligned_to_fours(work.x, work.residual, work.y), stream);
}

// --- tanh ------------------------------------------------------------------------------------------------------------

// y = tanh(x)
struct Tanh {
  const float* x;  // may be y
  float* y;
  template <bool aligned>
  __device__ void at(std::int64_t i, std::int64_t n) const {
    Four four = load_four<aligned>(x, i, n);
#pragma unroll
    for (float& v : four.v) v = tanhf(v);
    store_four<aligned>(four, y, i, n);
  }
};

// dx = dy (1 - y^2)
struct TanhGradient {
  const float* dy;  // may be dx
  const float* y;
  float* dx;
  template <bool aligned>
  __device__ void at(std::int64_t i, std::int64_t n) const {
    Four four = load_four<aligned>(dy, i, n);
    const Four tanh = load_four<aligned>(y, i, n);
#pragma unroll
    for (int j = 0; j < 4; ++j) four.v[j] *= fmaf(-tanh.v[j], tanh.v[j], 1.0F);
    store_four<aligned>(four, dx, i, n);
  }
};

// --- bfloat16 --------------------------------------------------------------------------------------------------------

// y = residual + x, rounded to To
template <class From, class To>
struct Convert {
  const From* x;
  const float* residual;  // or null; may be y
  To* y;
  template <bool aligned>
  __device__ void at(std::int64_t i, std::int64_t n) const {
    Four four = load_four<aligned>(x, i, n);
    if (residual != nullptr) {
      const Four other = load_four<aligned>(residual, i, n);
#pragma unroll
      for (int j = 0; j < 4; ++j) four.v[j] = other.v[j] + four.v[j];
    }
    store_four<aligned>(four, y, i, n);
  }
};

}  // namespace

void CudaOps::run(const Dropout& a) {
  dispatch_stored(a.x ? a.x.dtype : Dtype::f32, [&]<class X>() {
    dispatch_stored(a.y.dtype, [&]<class Y>() {
      switch (draws_of(a.draw)) {
        case Draws::in_a_row:
          return launch_dropout<X, Y, Draws::in_a_row>(a, stream());
        case Draws::in_runs:
          return launch_dropout<X, Y, Draws::in_runs>(a, stream());
        case Draws::any:
          return launch_dropout<X, Y, Draws::any>(a, stream());
      }
    });
  });
}

void CudaOps::run(const TanhForward& a) {
  const Tanh work{data_of<float>(a.x), data_of<float>(a.y)};
  launch_on_elements(work, a.y.elements(), aligned_to_fours(work.x, work.y), stream());
}

void CudaOps::run(const TanhBackward& a) {
  const TanhGradient work{data_of<float>(a.dy), data_of<float>(a.y), data_of<float>(a.dx)};
  launch_on_elements(work, a.dx.elements(), aligned_to_fours(work.dy, work.y, work.dx), stream());
}

void CudaOps::run(const ToBf16& a) {
  const Convert<float, Bfloat16> work{data_of<float>(a.x), nullptr, data_of<Bfloat16>(a.y)};
  launch_on_elements(work, a.y.elements(), aligned_to_fours(work.x, work.y), stream());
}

void CudaOps::run(const FromBf16& a) {
  const Convert<Bfloat16, float> work{data_of<Bfloat16>(a.x), data_of<float>(a.residual), data_of<float>(a.y)};
  launch_on_elements(work, a.y.elements(), aligned_to_fours(work.x, work.residual, work.y), stream());
}

}  // namespace vitrail::cuda
