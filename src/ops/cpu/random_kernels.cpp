#include "ops/cpu/random_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/random_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/double_math-inl.hpp"
#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR  // one lane, which has no halves

template <class Number>
void for_numbers(const RandomRun& a, const Number& number) {
  for (std::int64_t i = 0; i < a.n; ++i)
    a.y[i] = static_cast<float>(a.scale * number(a.first + static_cast<std::uint64_t>(i)));
}

void Uniform(const RandomRun& a) {
  for_numbers(a, [&](std::uint64_t i) { return 2.0 * a.random.uniform(i) - 1.0; });
}
void Normal(const RandomRun& a) {
  for_numbers(a, [&](std::uint64_t i) { return a.random.normal(i); });
}
void TruncatedNormal(const RandomRun& a, double limit) {
  for_numbers(a, [&](std::uint64_t i) {
    const double x = a.random.normal(i);
    return std::abs(x) <= limit ? x : std::numeric_limits<double>::quiet_NaN();
  });
}

#else

using Words = hn::ScalableTag<std::uint32_t>;
using Word = hn::Vec<Words>;
using HalfFloats = hn::Rebind<float, Doubles>;
using HalfFloat = hn::Vec<HalfFloats>;

// --- Philox: lane i of four vectors has the words of counter index i
// --------------------------------------------------

struct Product {
  Word high, low;
};
HWY_INLINE Product multiply(Word a, Word b) {
  const Words d;
  const hn::RepartitionToWide<Words> wide;
  const auto even = hn::MulEven(a, b);
  const auto odd = hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(wide, a))), b);
  return {hn::OddEven(hn::BitCast(d, odd), hn::BitCast(d, hn::ShiftRight<32>(even))),
          hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(odd)), hn::BitCast(d, even))};
}

struct Four {
  Word w0, w1, w2, w3;
};
/// Of the counter indices from `block` on.
HWY_INLINE Four philox(const Philox& random, std::uint64_t block) {
  const Words d;
  const auto counter = random.counter(block);
  auto key = random.key();
  const Word low = hn::Set(d, counter[0]);
  Word c0 = hn::Add(low, hn::Iota(d, 0));
  // A carry into the high word: where the sum is smaller than what was added to.
  Word c1 = hn::Sub(hn::Set(d, counter[1]), hn::VecFromMask(d, hn::Lt(c0, low)));
  Word c2 = hn::Set(d, counter[2]);
  Word c3 = hn::Set(d, counter[3]);
  for (int round = 0; round < Philox::kRounds; ++round) {
    const Product p0 = multiply(c0, hn::Set(d, Philox::kMultipliers[0]));
    const Product p1 = multiply(c2, hn::Set(d, Philox::kMultipliers[1]));
    c0 = hn::Xor(hn::Xor(p1.high, c1), hn::Set(d, key[0]));
    c2 = hn::Xor(hn::Xor(p0.high, c3), hn::Set(d, key[1]));
    c1 = p1.low;
    c3 = p0.low;
    key[0] += Philox::kKeySteps[0];
    key[1] += Philox::kKeySteps[1];
  }
  return {c0, c1, c2, c3};
}

/// A word less 2^31, exactly: of the lower or the upper half of the lanes.
HWY_INLINE Double centred(Word w, bool upper) {
  const hn::Rebind<std::int32_t, Words> d;
  const hn::Rebind<std::int32_t, Doubles> half;
  const auto bits = hn::BitCast(d, hn::Xor(w, hn::Set(Words(), 0x80000000U)));
  return hn::PromoteTo(Doubles(), upper ? hn::UpperHalf(half, bits) : hn::LowerHalf(half, bits));
}

// --- normal numbers --------------------------------------------------------------------------------------------------

struct Circle {
  Double cosine, sine;
};
/// Of 0 <= x <= 2 pi.
HWY_INLINE Circle circle(Double x) {
  const Double quadrant = hn::Round(hn::Mul(x, set(2.0 / std::numbers::pi)));
  // pi/2 in two parts, the first with few bits: quadrant * high is exact.
  Double r = hn::NegMulAdd(quadrant, set(0x1.921fbp0), x);
  r = hn::NegMulAdd(quadrant, set(0x1.5110b4611a626p-22), r);
  // Taylor's series: |r| <= pi/4, so what is left out is below 1e-16.
  const Double r2 = hn::Mul(r, r);
  Double sine = set(-1.0 / 1307674368000);
  sine = hn::MulAdd(sine, r2, set(1.0 / 6227020800));
  sine = hn::MulAdd(sine, r2, set(-1.0 / 39916800));
  sine = hn::MulAdd(sine, r2, set(1.0 / 362880));
  sine = hn::MulAdd(sine, r2, set(-1.0 / 5040));
  sine = hn::MulAdd(sine, r2, set(1.0 / 120));
  sine = hn::MulAdd(sine, r2, set(-1.0 / 6));
  sine = hn::MulAdd(hn::Mul(sine, r2), r, r);
  Double cosine = set(1.0 / 20922789888000);
  cosine = hn::MulAdd(cosine, r2, set(-1.0 / 87178291200));
  cosine = hn::MulAdd(cosine, r2, set(1.0 / 479001600));
  cosine = hn::MulAdd(cosine, r2, set(-1.0 / 3628800));
  cosine = hn::MulAdd(cosine, r2, set(1.0 / 40320));
  cosine = hn::MulAdd(cosine, r2, set(-1.0 / 720));
  cosine = hn::MulAdd(cosine, r2, set(1.0 / 24));
  const Double half = hn::Mul(r2, set(0.5));
  const Double near = hn::Sub(set(1.0), half);
  const Double lost = hn::Sub(hn::Sub(set(1.0), near), half);  // of 1 - half, by rounding
  cosine = hn::Add(near, hn::MulAdd(hn::Mul(cosine, r2), r2, lost));
  const auto is = [&](double n) { return hn::Eq(quadrant, set(n)); };
  const auto odd = hn::Or(is(1), is(3));
  const Double along = hn::IfThenElse(odd, sine, cosine);
  const Double across = hn::IfThenElse(odd, cosine, sine);
  return {hn::IfThenElse(hn::Or(is(1), is(2)), hn::Neg(along), along),
          hn::IfThenElse(hn::Or(is(2), is(3)), hn::Neg(across), across)};
}

struct Pair {
  Double first, second;
};
/// Box and Muller's from two words.
HWY_INLINE Pair normals(Word radius_word, Word angle_word, bool upper) {
  const auto uniform = [&](Word w) { return hn::Mul(hn::Add(centred(w, upper), set(0x1p31 + 0.5)), set(0x1p-32)); };
  const Double radius = hn::Sqrt(hn::Mul(log(uniform(radius_word)), set(-2.0)));
  const Circle at = circle(hn::Mul(uniform(angle_word), set(2.0 * std::numbers::pi)));
  return {hn::Mul(radius, at.cosine), hn::Mul(radius, at.sine)};
}

// --- runs ------------------------------------------------------------------------------------------------------------

/// The four values of every counter of a vector.
struct Values {
  Vector v0, v1, v2, v3;
};
HWY_INLINE Vector join(HalfFloat lower, HalfFloat upper) { return hn::Combine(Floats(), upper, lower); }

/// values(words) for every vector of counters that has a part in the run.
template <class Kind>
HWY_INLINE void for_counters(const RandomRun& a, const Kind& values) {
  const Floats d;
  const std::int64_t step = 4 * lanes();
  HWY_ALIGN float part[4 * kMostLanes];
  std::uint64_t block = a.first / 4;
  for (std::int64_t at = -static_cast<std::int64_t>(a.first % 4); at < a.n; at += step) {
    const Values v = values(philox(a.random, block));
    block += static_cast<std::uint64_t>(lanes());
    const bool inside = at >= 0 && at + step <= a.n;
    hn::StoreInterleaved4(v.v0, v.v1, v.v2, v.v3, d, inside ? a.y + at : part);
    if (inside) continue;
    const std::int64_t begin = std::max<std::int64_t>(at, 0);
    const std::int64_t end = std::min(at + step, a.n);
    std::copy(part + (begin - at), part + (end - at), a.y + begin);
  }
}

void Uniform(const RandomRun& a) {
  const Double scale = set(a.scale);
  const auto half = [&](Word w, bool upper) {  // 2 u - 1 = (word - 2^31 + 1/2) 2^-31
    const Double x = hn::Mul(hn::Add(centred(w, upper), set(0.5)), set(0x1p-31));
    return hn::DemoteTo(HalfFloats(), hn::Mul(x, scale));
  };
  const auto both = [&](Word w) { return join(half(w, false), half(w, true)); };
  for_counters(a, [&](const Four& w) -> Values { return {both(w.w0), both(w.w1), both(w.w2), both(w.w3)}; });
}

template <class Finish>
HWY_INLINE void draw_normals(const RandomRun& a, const Finish& finish) {
  for_counters(a, [&](const Four& w) -> Values {
    const Pair lower0 = normals(w.w0, w.w1, false), upper0 = normals(w.w0, w.w1, true);
    const Pair lower1 = normals(w.w2, w.w3, false), upper1 = normals(w.w2, w.w3, true);
    return {join(finish(lower0.first), finish(upper0.first)), join(finish(lower0.second), finish(upper0.second)),
            join(finish(lower1.first), finish(upper1.first)), join(finish(lower1.second), finish(upper1.second))};
  });
}

void Normal(const RandomRun& a) {
  const Double scale = set(a.scale);
  draw_normals(a, [&](Double x) { return hn::DemoteTo(HalfFloats(), hn::Mul(x, scale)); });
}

void TruncatedNormal(const RandomRun& a, double limit) {
  const Double scale = set(a.scale);
  const Double limits = set(limit);
  const Double none = set(std::numeric_limits<double>::quiet_NaN());
  draw_normals(a, [&](Double x) {
    const Double kept = hn::IfThenElse(hn::Le(hn::Abs(x), limits), hn::Mul(x, scale), none);
    return hn::DemoteTo(HalfFloats(), kept);
  });
}

#endif

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(Uniform);
HWY_EXPORT(Normal);
HWY_EXPORT(TruncatedNormal);

void uniform_run(const RandomRun& a) { HWY_DYNAMIC_DISPATCH(Uniform)(a); }
void normal_run(const RandomRun& a) { HWY_DYNAMIC_DISPATCH(Normal)(a); }
void truncated_normal_run(const RandomRun& a, double limit) { HWY_DYNAMIC_DISPATCH(TruncatedNormal)(a, limit); }

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
