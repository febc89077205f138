// Dropout, bfloat16 and what else treats every element alone.

#include <algorithm>
#include <array>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kElements = 1 << 14;  // of a unit of work

/// factors[i] = that of element begin + i, for `count` elements.
void element_factors(const DropoutMask& mask, const DropoutDraw& draw, std::int64_t begin, std::int64_t count,
                     float* factors) {
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t j = (begin + i) / draw.share;
    const std::uint64_t index = mask.index_of(begin + i);
    std::int64_t some = 0;
    if (draw.share == 1) {
      some = std::min(count - i, draw.run == draw.stride ? count : draw.run - j % draw.run);
      dropout_factors(mask, index, some, factors + i);
    } else {
      some = std::min(count - i, (j + 1) * draw.share - (begin + i));
      std::fill_n(factors + i, some, static_cast<float>(mask.factor(index)));
    }
    i += some;
  }
}

}  // namespace

void CpuOps::run(const Dropout& a) {
  const DropoutMask mask(a.draw);
  const ConstElements x = a.x;
  const Elements y = a.y;
  for_each_piece(threads_, a.y.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    std::array<float, 1024> factors;
    for (std::int64_t i = begin; i < end; i += std::ssize(factors)) {
      const std::int64_t count = std::min(std::ssize(factors), end - i);
      element_factors(mask, a.draw, i, count, factors.data());
      add_scaled(factors.data(), x + i, a.residual ? a.residual.as<float>() + i : nullptr, y + i, count);
    }
  });
}

void CpuOps::run(const ToBf16& a) {
  for_each_piece(threads_, a.y.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    copy_run(a.x.as<float>() + begin, a.y.as<Bf16>() + begin, end - begin);
  });
}

void CpuOps::run(const FromBf16& a) {
  for_each_piece(threads_, a.y.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    const Bf16* const x = a.x.as<Bf16>() + begin;
    float* const y = a.y.as<float>() + begin;
    if (a.residual) {
      start_rows(a.residual.as<float>() + begin, x, y, 1, end - begin);
    } else {
      copy_run(x, y, end - begin);
    }
  });
}

void CpuOps::run(const TanhForward& a) {
  for_each_piece(threads_, a.x.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    tanh_run(a.x.as<float>() + begin, a.y.as<float>() + begin, end - begin);
  });
}

void CpuOps::run(const TanhBackward& a) {
  for_each_piece(threads_, a.y.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    tanh_run_backward(a.dy.as<float>() + begin, a.y.as<float>() + begin, a.dx.as<float>() + begin, end - begin);
  });
}

}  // namespace vitrail::cpu
