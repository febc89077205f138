// Vector mathematics shared by the kernels of this back end. Included once per instruction set (Highway's
// foreach_target), hence the unusual guard.

#if defined(VITRAIL_OPS_CPU_VECTOR_MATH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRAIL_OPS_CPU_VECTOR_MATH_INL
#undef VITRAIL_OPS_CPU_VECTOR_MATH_INL
#else
#define VITRAIL_OPS_CPU_VECTOR_MATH_INL
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <hwy/highway.h>

#include "ops/cpu/elements.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vector = hn::Vec<Floats>;
constexpr std::size_t kMostLanes = HWY_MAX_BYTES / sizeof(float);

HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(Floats())); }

HWY_INLINE Vector set(float x) { return hn::Set(Floats(), x); }
HWY_INLINE Vector zero() { return hn::Zero(Floats()); }
HWY_INLINE float sum(Vector x) { return hn::GetLane(hn::SumOfLanes(Floats(), x)); }
HWY_INLINE float largest(Vector x) { return hn::GetLane(hn::MaxOfLanes(Floats(), x)); }

/// The nearest bf16, ties to even, in the upper half of each lane; the lower half is anything. NaN stays NaN.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<Floats>> nearest_bits(Vector x) {
  const hn::RebindToUnsigned<Floats> d;
  const auto bits = hn::BitCast(d, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1));
  const auto nearest = hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7FFF)));
  const auto quiet = hn::Or(bits, hn::Set(d, 0x400000));  // adding could turn a NaN into an infinity
  return hn::IfThenElse(hn::RebindMask(d, hn::Eq(x, x)), nearest, quiet);
}
/// The same with 0 in the lower half, and as f32.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<Floats>> rounded_bits(Vector x) {
  return hn::And(nearest_bits(x), hn::Set(hn::RebindToUnsigned<Floats>(), 0xFFFF0000));
}
HWY_INLINE Vector rounded(Vector x) { return hn::BitCast(Floats(), rounded_bits(x)); }

/// The bits of bf16, of which there are as many as lanes; their vectors are half as wide.
using Halves = hn::Rebind<std::uint16_t, Floats>;
HWY_INLINE const std::uint16_t* bits_at(const Bf16* p) { return reinterpret_cast<const std::uint16_t*>(p); }
HWY_INLINE std::uint16_t* bits_at(Bf16* p) { return reinterpret_cast<std::uint16_t*>(p); }
HWY_INLINE Vector widened(hn::Vec<Halves> bits) {
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::PromoteTo(hn::RebindToUnsigned<Floats>(), bits)));
}
HWY_INLINE hn::Vec<Halves> narrowed(Vector x) { return hn::TruncateTo(Halves(), hn::ShiftRight<16>(nearest_bits(x))); }

/// As many elements from p as there are lanes, or to p. bf16 is rounded to, to nearest with ties to even.
HWY_INLINE Vector load(const float* p) { return hn::LoadU(Floats(), p); }
HWY_INLINE Vector load(const Bf16* p) { return widened(hn::LoadU(Halves(), bits_at(p))); }
HWY_INLINE void store(Vector x, float* p) { hn::StoreU(x, Floats(), p); }
HWY_INLINE void store(Vector x, Bf16* p) { hn::StoreU(narrowed(x), Halves(), bits_at(p)); }

#if !HWY_MEM_OPS_MIGHT_FAULT
HWY_INLINE Vector load_first(const float* p, std::size_t count) {
  return hn::MaskedLoad(hn::FirstN(Floats(), count), Floats(), p);
}
HWY_INLINE Vector load_first(const Bf16* p, std::size_t count) {
  return widened(hn::MaskedLoad(hn::FirstN(Halves(), count), Halves(), bits_at(p)));
}
HWY_INLINE void store_first(Vector x, float* p, std::size_t count) {
  hn::BlendedStore(x, hn::FirstN(Floats(), count), Floats(), p);
}
HWY_INLINE void store_first(Vector x, Bf16* p, std::size_t count) {
  hn::BlendedStore(narrowed(x), hn::FirstN(Halves(), count), Halves(), bits_at(p));
}
#endif

/// The first `count` lanes from p (all of them when count is the number of lanes), the others `fill`. Never reads past
/// p + count. T: float or Bf16.
template <class T>
HWY_INLINE Vector load(const T* p, std::int64_t count, float fill = 0.0F) {
  if (count >= lanes()) return load(p);
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN float part[kMostLanes];
  for (std::int64_t i = 0; i < lanes(); ++i) {
    if constexpr (std::is_same_v<T, Bf16>) {
      part[i] = i < count ? to_float(p[i]) : fill;
    } else {
      part[i] = i < count ? p[i] : fill;
    }
  }
  return hn::Load(Floats(), part);
#else
  const auto some = static_cast<std::size_t>(count);
  return hn::IfThenElse(hn::FirstN(Floats(), some), load_first(p, some), set(fill));
#endif
}
/// The first `count` lanes to p. Never writes past p + count.
template <class T>
HWY_INLINE void store(Vector x, T* p, std::int64_t count) {
  if (count >= lanes()) {
    store(x, p);
    return;
  }
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN T part[kMostLanes];
  store(x, part);
  for (std::int64_t i = 0; i < count; ++i) p[i] = part[i];
#else
  store_first(x, p, static_cast<std::size_t>(count));
#endif
}

/// work(p) with p the pointer to the elements of `x` as what they are.
template <class Void, class Work>
HWY_INLINE void with_elements(const BasicElements<Void>& x, const Work& work) {
  if (x.is_bf16()) {
    work(x.template as<Bf16>());
  } else {
    work(x.template as<float>());
  }
}

/// body(i, count) for every vector of 0 .. n-1; count is the number of lanes but for a last, shorter one.
template <class Body>
HWY_INLINE void for_vectors(std::int64_t n, const Body& body) {
  const std::int64_t step = lanes();
  std::int64_t i = 0;
  for (; i + step <= n; i += step) body(i, step);
  if (i < n) body(i, n - i);
}

/// to[i] = from[i], i < n, rounded where it is bf16.
template <class From, class To>
HWY_INLINE void copy_elements(const From* from, std::int64_t n, To* to) {
  if constexpr (std::is_same_v<From, To>) {
    std::copy_n(from, n, to);
  } else {
    for_vectors(n, [&](std::int64_t i, std::int64_t count) { store(load(from + i, count), to + i, count); });
  }
}

/// A sum over many vectors: in runs of 32, so that its error grows with the run and not with the whole.
struct LongSum {
  // Written out: GCC compiles the implicit constructor without the target's instructions.
  HWY_INLINE LongSum() : total(zero()), run(zero()) {}
  Vector total;
  Vector run;
  int terms = 0;
  HWY_INLINE void add(Vector x) {
    run = hn::Add(run, x);
    if (++terms % 32 != 0) return;
    total = hn::Add(total, run);
    run = zero();
  }
  HWY_INLINE float value() const { return sum(hn::Add(total, run)); }
};

/// e^x to about 1 ulp for x <= 88 (larger x are the caller's mistake); 0 below -87; NaN stays NaN. Short chains matter
/// more than few operations here: a loop over vectors is bound by the latency of the whole.
HWY_INLINE Vector exp(Vector x) {
  const Floats d;
  const hn::RebindToSigned<Floats> di;
  // x / ln 2 rounded: adding 1.5 * 2^23 leaves the integer in the low bits.
  const Vector magic = set(12582912.0F);
  const Vector shifted = hn::MulAdd(x, set(1.4426950408889634F), magic);
  const Vector q = hn::Sub(shifted, magic);
  // ln 2 in two parts, the first with few bits: q * ln2_high is exact.
  Vector r = hn::NegMulAdd(q, set(0.693145751953125F), x);
  r = hn::NegMulAdd(q, set(1.42860682030941723e-6F), r);
  // Taylor's series: |r| <= ln(2)/2, so what is left out is below 1e-8.
  const Vector r2 = hn::Mul(r, r);
  const Vector high = hn::MulAdd(r, set(1.0F / 5040), set(1.0F / 720));
  const Vector middle = hn::MulAdd(r, set(1.0F / 120), set(1.0F / 24));
  const Vector low = hn::MulAdd(r, set(1.0F / 6), set(0.5F));
  const Vector series = hn::MulAdd(hn::MulAdd(high, r2, middle), r2, low);
  const Vector fraction = hn::Add(hn::MulAdd(series, r2, r), set(1.0F));
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::BitCast(di, shifted), hn::Set(di, 127)));
  return hn::IfThenZeroElse(hn::Lt(x, set(-87.0F)), hn::Mul(fraction, hn::BitCast(d, exponent)));
}

/// How exact a result must be: to about an ulp, or to 2e-4 of it, a twentieth of what rounding it to bf16 may take.
enum class Exactness : bool { f32, bf16 };

/// 2^x for |x| <= 120; others, and NaN, are the caller's mistake.
template <Exactness kExactness>
HWY_INLINE Vector exp2(Vector x) {
  const hn::RebindToSigned<Floats> di;
  // x rounded: adding 1.5 * 2^23 leaves the integer in the low bits.
  const Vector magic = set(12582912.0F);
  const Vector shifted = hn::Add(x, magic);
  const Vector r = hn::Sub(x, hn::Sub(shifted, magic));
  Vector fraction;
  if constexpr (kExactness == Exactness::f32) {
    // The polynomial of degree 6 with p(0) = 1 of the least largest error relative to 2^r, |r| <= 1/2: 2e-9.
    const Vector r2 = hn::Mul(r, r);
    const Vector high = hn::MulAdd(r, set(1.5353362e-4F), set(1.3398875e-3F));
    const Vector middle = hn::MulAdd(r, set(9.618437e-3F), set(5.5503324e-2F));
    const Vector low = hn::MulAdd(r, set(0.24022648F), set(0.6931472F));
    fraction = hn::MulAdd(hn::MulAdd(hn::MulAdd(high, r2, middle), r2, low), r, set(1.0F));
  } else {  // of degree 3: 7.5e-5
    const Vector high = hn::MulAdd(r, set(5.5171669e-2F), set(0.24261113F));
    fraction = hn::MulAdd(hn::MulAdd(high, r, set(0.69326097F)), r, set(0.99992806F));
  }
  // Times 2^q by its exponent's bits.
  return hn::BitCast(Floats(), hn::Add(hn::BitCast(di, fraction), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

/// ln x to about 1 ulp for normal x > 0; infinity and NaN give NaN.
HWY_INLINE Vector log(Vector x) {
  const Floats d;
  const hn::RebindToSigned<Floats> di;
  // x = 2^q m with m in [sqrt(1/2), sqrt 2): the exponent of x / sqrt(1/2), taken from the bits.
  const auto bits = hn::Sub(hn::BitCast(di, x), hn::Set(di, 0x3F3504F3));
  const auto whole = hn::ShiftRight<23>(bits);
  const Vector q = hn::ConvertTo(d, whole);
  const Vector m = hn::BitCast(d, hn::Sub(hn::BitCast(di, x), hn::ShiftLeft<23>(whole)));
  // ln m = 2 artanh s, s = (m-1)/(m+1), |s| < 0.172
  const Vector s = hn::Div(hn::Sub(m, set(1.0F)), hn::Add(m, set(1.0F)));
  const Vector s2 = hn::Mul(s, s);
  Vector series = hn::MulAdd(set(1.0F / 9), s2, set(1.0F / 7));
  series = hn::MulAdd(series, s2, set(1.0F / 5));
  series = hn::MulAdd(series, s2, set(1.0F / 3));
  const Vector twice = hn::Add(s, s);
  const Vector fraction = hn::MulAdd(hn::Mul(series, s2), twice, twice);
  const Vector result = hn::MulAdd(q, set(0.693145751953125F), hn::MulAdd(q, set(1.42860682030941723e-6F), fraction));
  return hn::Add(result, hn::Sub(x, x));  // 0, or NaN where x is not finite
}

/// tanh x = 1 - 2 / (e^2x + 1); small x take Taylor's series, because there the difference would cancel.
HWY_INLINE Vector tanh(Vector x) {
  const Vector a = hn::Min(set(10.0F), hn::Abs(x));
  const Vector e = exp(hn::Add(a, a));
  const Vector large = hn::Sub(set(1.0F), hn::Div(set(2.0F), hn::Add(e, set(1.0F))));
  const Vector a2 = hn::Mul(a, a);
  Vector series = set(-929569.0F / 638512875.0F);
  series = hn::MulAdd(series, a2, set(21844.0F / 6081075.0F));
  series = hn::MulAdd(series, a2, set(-1382.0F / 155925.0F));
  series = hn::MulAdd(series, a2, set(62.0F / 2835.0F));
  series = hn::MulAdd(series, a2, set(-17.0F / 315.0F));
  series = hn::MulAdd(series, a2, set(2.0F / 15.0F));
  series = hn::MulAdd(series, a2, set(-1.0F / 3.0F));
  const Vector small = hn::MulAdd(hn::Mul(series, a2), a, a);
  return hn::CopySign(hn::IfThenElse(hn::Lt(a, set(0.5F)), small, large), x);
}

/// 1 / x for 1 <= x < 2^126; NaN stays NaN. A division would keep the processor longer than all the rest of a
/// GELU, and the instructions that guess differ between makers: so the guess comes from the exponent's bits (5 % off at
/// worst), Halley's step takes the error's cube (1.3e-4), and Newton's its square.
template <Exactness kExactness>
HWY_INLINE Vector reciprocal(Vector x) {
  const hn::RebindToUnsigned<Floats> d;
  Vector y = hn::BitCast(Floats(), hn::Sub(hn::Set(d, 0x7EF311C7), hn::BitCast(d, x)));
  const Vector one = set(1.0F);
  const Vector error = hn::NegMulAdd(x, y, one);
  y = hn::MulAdd(y, hn::MulAdd(error, error, error), y);
  return kExactness == Exactness::f32 ? hn::MulAdd(y, hn::NegMulAdd(x, y, one), y) : y;
}

/// The tanh form of GELU is u * sigmoid(2 c0 (u + 0.044715 u^3)), c0 = sqrt(2/pi), because (1 + tanh z) / 2 =
/// sigmoid(2z); this form keeps its relative accuracy for large negative u. [derived]
struct Gelu {
  Vector value;
  Vector slope;
};
template <Exactness kExactness = Exactness::f32>
HWY_INLINE Gelu gelu_and_slope(Vector u) {
  constexpr double kTwoC0 = 1.5957691216057308, kCubic = 0.044715 * kTwoC0, kLog2OfE = 1.4426950408889634;
  const auto constant = [](double x) { return set(static_cast<float>(x)); };
  const Vector u2 = hn::Mul(u, u);
  // e = e^-2z as a power of 2. Beyond 2^+-115 the sigmoid is 0 or 1 to f32, and e would leave its range. (A NaN gets
  // lost in e, but not in u.)
  const Vector exponent = hn::Mul(u, hn::NegMulSub(constant(kLog2OfE * kCubic), u2, constant(kLog2OfE * kTwoC0)));
  const Vector e = exp2<kExactness>(hn::Max(set(-115.0F), hn::Min(set(115.0F), exponent)));
  const Vector s = reciprocal<kExactness>(hn::Add(e, set(1.0F)));
  const Vector value = hn::Mul(u, s);
  // slope = s + u s (1-s) 2 z'(u), with 1 - s = e s
  const Vector two_dz = hn::MulAdd(constant(3 * kCubic), u2, constant(kTwoC0));
  return {value, hn::MulAdd(hn::Mul(value, hn::Mul(e, s)), two_dz, s)};
}
template <Exactness kExactness = Exactness::f32>
HWY_INLINE Vector gelu(Vector u) {
  return gelu_and_slope<kExactness>(u).value;
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
