// Vector mathematics shared by the kernels of this back end. Included once per instruction set (Highway's
// foreach_target), hence the unusual guard.

#if defined(VITRAIL_OPS_CPU_VECTOR_MATH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRAIL_OPS_CPU_VECTOR_MATH_INL
#undef VITRAIL_OPS_CPU_VECTOR_MATH_INL
#else
#define VITRAIL_OPS_CPU_VECTOR_MATH_INL
#endif

#include <cstddef>
#include <cstdint>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vector = hn::Vec<Floats>;
constexpr std::size_t kMostLanes = HWY_MAX_BYTES / sizeof(float);

HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(Floats())); }

/// The first `count` lanes from p (all of them when count is the number of lanes), the others `fill`. Never reads past
/// p + count.
HWY_INLINE Vector load(const float* p, std::int64_t count, float fill = 0.0F) {
  const Floats d;
  if (count >= lanes()) return hn::LoadU(d, p);
  HWY_ALIGN float part[kMostLanes];
  for (std::int64_t i = 0; i < lanes(); ++i) part[i] = i < count ? p[i] : fill;
  return hn::Load(d, part);
}
HWY_INLINE void store(Vector x, float* p, std::int64_t count) {
  const Floats d;
  if (count >= lanes()) {
    hn::StoreU(x, d, p);
    return;
  }
  HWY_ALIGN float part[kMostLanes];
  hn::Store(x, d, part);
  for (std::int64_t i = 0; i < count; ++i) p[i] = part[i];
}

/// body(i, count) for every vector of 0 .. n-1; count is the number of lanes but for a last, shorter one.
template <class Body>
HWY_INLINE void for_vectors(std::int64_t n, const Body& body) {
  const std::int64_t step = lanes();
  std::int64_t i = 0;
  for (; i + step <= n; i += step) body(i, step);
  if (i < n) body(i, n - i);
}

HWY_INLINE Vector set(float x) { return hn::Set(Floats(), x); }
HWY_INLINE Vector zero() { return hn::Zero(Floats()); }
HWY_INLINE float sum(Vector x) { return hn::GetLane(hn::SumOfLanes(Floats(), x)); }
HWY_INLINE float largest(Vector x) { return hn::GetLane(hn::MaxOfLanes(Floats(), x)); }

/// e^x to about 1 ulp for x <= 88; larger x count as 88, below -87 it is 0. NaN stays NaN (so Min and Max have the
/// constant on the left: x86 returns the right operand).
HWY_INLINE Vector exp(Vector x) {
  const Floats d;
  const hn::RebindToSigned<Floats> di;
  const Vector clamped = hn::Min(set(88.0F), x);
  const auto whole = hn::NearestInt(hn::Mul(clamped, set(1.4426950408889634F)));
  const Vector q = hn::ConvertTo(d, whole);
  // ln 2 in two parts, the first with few bits: q * ln2_high is exact.
  Vector r = hn::NegMulAdd(q, set(0.693145751953125F), clamped);
  r = hn::NegMulAdd(q, set(1.42860682030941723e-6F), r);
  Vector series = set(1.0F / 5040);  // Taylor's: |r| <= ln(2)/2, so what is left out is below 1e-8
  series = hn::MulAdd(series, r, set(1.0F / 720));
  series = hn::MulAdd(series, r, set(1.0F / 120));
  series = hn::MulAdd(series, r, set(1.0F / 24));
  series = hn::MulAdd(series, r, set(1.0F / 6));
  series = hn::MulAdd(series, r, set(0.5F));
  series = hn::MulAdd(hn::Mul(series, r), r, r);
  const auto exponent = hn::ShiftLeft<23>(hn::Add(whole, hn::Set(di, 127)));
  const Vector y = hn::Mul(hn::Add(series, set(1.0F)), hn::BitCast(d, exponent));
  return hn::IfThenZeroElse(hn::Lt(x, set(-87.0F)), y);
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

/// The tanh form of GELU is u * sigmoid(2 c0 (u + 0.044715 u^3)), c0 = sqrt(2/pi), because (1 + tanh z) / 2 =
/// sigmoid(2z); this form keeps its relative accuracy for large negative u. [spec 6.2]
struct Gelu {
  Vector value;
  Vector slope;
};
HWY_INLINE Gelu gelu_and_slope(Vector u) {
  const Vector two_c0 = set(1.5957691216057308F);
  const Vector cubic = set(0.044715F * 1.5957691216057308F);
  const Vector u2 = hn::Mul(u, u);
  const Vector two_z = hn::Mul(u, hn::MulAdd(cubic, u2, two_c0));
  // Beyond +-80 the sigmoid is 0 or 1 to f32, and e^-2z would leave its range.
  const Vector e = exp(hn::Max(set(-80.0F), hn::Min(set(80.0F), hn::Neg(two_z))));
  const Vector s = hn::Div(set(1.0F), hn::Add(e, set(1.0F)));
  const Vector value = hn::Mul(u, s);
  // slope = s + u s (1-s) 2 z'(u), with 1 - s = e s
  const Vector two_dz = hn::MulAdd(hn::Mul(set(3.0F), cubic), u2, two_c0);
  return {value, hn::MulAdd(hn::Mul(value, hn::Mul(e, s)), two_dz, s)};
}
HWY_INLINE Vector gelu(Vector u) { return gelu_and_slope(u).value; }

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
