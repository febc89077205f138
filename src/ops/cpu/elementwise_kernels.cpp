#include "ops/cpu/elementwise_kernels.hpp"

#include <algorithm>
#include <array>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/elementwise_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

#if HWY_TARGET != HWY_SCALAR
using Wide = hn::ScalableTag<std::uint64_t>;
using WideVector = hn::Vec<Wide>;

/// Philox (base/philox.hpp) of one counter index in each 64-bit lane. A word stands in the lower half of its lane; what
/// stands above it is not looked at.
struct Words {
  WideVector word[4];
};
HWY_INLINE Words philox(Words c, const Philox& random) {
  const Wide d;
  const hn::Repartition<std::uint32_t, Wide> half;
  const auto product = [&](WideVector x, std::uint32_t by) {
    return hn::MulEven(hn::BitCast(half, x), hn::Set(half, by));
  };
  WideVector key0 = hn::Set(d, random.key()[0]);
  WideVector key1 = hn::Set(d, random.key()[1]);
  for (int round = 0; round < Philox::kRounds; ++round) {
    const WideVector p0 = product(c.word[0], Philox::kMultipliers[0]);
    const WideVector p1 = product(c.word[2], Philox::kMultipliers[1]);
    c = {{hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c.word[1]), key0), p1,
          hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c.word[3]), key1), p0}};
    key0 = hn::Add(key0, hn::Set(d, Philox::kKeySteps[0]));
    key1 = hn::Add(key1, hn::Set(d, Philox::kKeySteps[1]));
  }
  return c;
}

void DropoutFactors(const DropoutMask& mask, std::uint64_t first, std::int64_t count, float* factors) {
  if (mask.keeps_all() || mask.least() >> 32 != 0) {
    std::fill_n(factors, count, mask.keeps_all() ? static_cast<float>(mask.scale()) : 0.0F);
    return;
  }
  const Floats f;
  const Wide d;
  const hn::RebindToUnsigned<Floats> u;
  const Vector scale = set(static_cast<float>(mask.scale()));
  const auto least = hn::Set(u, static_cast<std::uint32_t>(mask.least()));
  const auto factors_of = [&](WideVector words) {
    return hn::IfThenZeroElse(hn::RebindMask(f, hn::Lt(hn::BitCast(u, words), least)), scale);
  };
  // The even lanes draw the blocks of the first vector of factors, the odd lanes those of the second.
  const std::int64_t blocks = lanes() / 2;
  HWY_ALIGN std::uint64_t places[kMostLanes / 2];
  for (std::int64_t lane = 0; lane < blocks; ++lane)
    places[lane] = static_cast<std::uint64_t>(lane / 2 + lane % 2 * (blocks / 2));
  const WideVector block_of = hn::Load(d, places);
  const std::array<std::uint32_t, 4> constant = mask.random().counter(0);
  std::uint64_t block = first / 4;
  for (std::int64_t i = -static_cast<std::int64_t>(first % 4); i < count; i += 4 * blocks) {
    const WideVector counter = hn::Add(hn::Set(d, block), block_of);
    const Words w = philox({{counter, hn::ShiftRight<32>(counter), hn::Set(d, constant[2]), hn::Set(d, constant[3])}},
                           mask.random());
    const WideVector lower = hn::Set(d, 0xFFFFFFFFU);
    const WideVector words01 = hn::Or(hn::And(w.word[0], lower), hn::ShiftLeft<32>(w.word[1]));
    const WideVector words23 = hn::Or(hn::And(w.word[2], lower), hn::ShiftLeft<32>(w.word[3]));
    const Vector one = factors_of(hn::InterleaveLower(d, words01, words23));
    const Vector two = factors_of(hn::InterleaveUpper(d, words01, words23));
    block += static_cast<std::uint64_t>(blocks);
    if (i >= 0 && i + 4 * blocks <= count) {
      hn::StoreU(one, f, factors + i);
      hn::StoreU(two, f, factors + i + lanes());
      continue;
    }
    HWY_ALIGN float some[2 * kMostLanes];
    hn::Store(one, f, some);
    hn::Store(two, f, some + lanes());
    const std::int64_t begin = std::max<std::int64_t>(0, i);
    std::copy_n(some + (begin - i), std::min(i + 4 * blocks, count) - begin, factors + begin);
  }
}
#else
void DropoutFactors(const DropoutMask& mask, std::uint64_t first, std::int64_t count, float* factors) {
  mask.factors(first, count, factors);
}
#endif

template <class X, class Y>
void add_scaled_run(const float* factors, const X* x, const float* residual, Y* y, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    Vector value = load(factors + i, count);
    if (x != nullptr) value = hn::Mul(value, load(x + i, count));
    if (residual != nullptr) value = hn::Add(load(residual + i, count), value);
    store(value, y + i, count);
  });
}

void AddScaled(const float* factors, ConstElements x, const float* residual, Elements y, std::int64_t n) {
  with_elements(x, [&](const auto* from) {
    with_elements(y, [&](auto* to) { add_scaled_run(factors, from, residual, to, n); });
  });
}

template <class X, class Y>
void copy(const X* x, std::int64_t stride, Y* y, std::int64_t rows, std::int64_t n) {
  for (std::int64_t row = 0; row < rows; ++row, x += stride, y += n) copy_elements(x, n, y);
}

void CopyRows(ConstElements x, std::int64_t stride, Elements y, std::int64_t rows, std::int64_t n) {
  with_elements(x, [&](const auto* from) { with_elements(y, [&](auto* to) { copy(from, stride, to, rows, n); }); });
}

void RoundRun(const float* x, float* y, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) { store(rounded(load(x + i, count)), y + i, count); });
}

void ScaleAndAdd(float before, float weight, const float* x, float* y, std::int64_t n) {
  const Vector befores = set(before);
  const Vector weights = set(weight);
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    store(hn::MulAdd(weights, load(x + i, count), hn::Mul(befores, load(y + i, count))), y + i, count);
  });
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(DropoutFactors);
HWY_EXPORT(AddScaled);
HWY_EXPORT(CopyRows);
HWY_EXPORT(RoundRun);
HWY_EXPORT(ScaleAndAdd);

void dropout_factors(const DropoutMask& mask, std::uint64_t first, std::int64_t count, float* factors) {
  HWY_DYNAMIC_DISPATCH(DropoutFactors)(mask, first, count, factors);
}
void add_scaled(const float* factors, ConstElements x, const float* residual, Elements y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(AddScaled)(factors, x, residual, y, n);
}
void copy_rows(ConstElements x, std::int64_t stride, Elements y, std::int64_t rows, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(CopyRows)(x, stride, y, rows, n);
}
void round_run(const float* x, float* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(RoundRun)(x, y, n); }
void scale_and_add(float before, float weight, const float* x, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(ScaleAndAdd)(before, weight, x, y, n);
}

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
