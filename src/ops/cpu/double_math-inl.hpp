// Mathematics of double vectors. Included once per instruction set (Highway's foreach_target), hence the unusual guard.
// Not for the scalar target, whose one lane has no halves.

#if defined(VITRAIL_OPS_CPU_DOUBLE_MATH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRAIL_OPS_CPU_DOUBLE_MATH_INL
#undef VITRAIL_OPS_CPU_DOUBLE_MATH_INL
#else
#define VITRAIL_OPS_CPU_DOUBLE_MATH_INL
#endif

#include <numbers>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::ScalableTag<double>;
using Double = hn::Vec<Doubles>;

HWY_INLINE Double set(double x) { return hn::Set(Doubles(), x); }

/// ln x to about 1 ulp for normal x > 0.
HWY_INLINE Double log(Double x) {
  const Doubles d;
  const hn::RebindToSigned<Doubles> di;
  // x = 2^q m with m in [sqrt(1/2), sqrt 2): the exponent of x / sqrt(1/2), taken from the bits.
  const auto bits = hn::Sub(hn::BitCast(di, x), hn::Set(di, 0x3FE6A09E667F3BCD));
  const auto whole = hn::ShiftRight<52>(bits);
  const Double q = hn::ConvertTo(d, whole);
  const Double m = hn::BitCast(d, hn::Sub(hn::BitCast(di, x), hn::ShiftLeft<52>(whole)));
  // ln m = 2 artanh s = 2 s + 2 s^3/3 + ..., s = (m-1)/(m+1), |s| < 0.172; 2 s = f - s f, f = m - 1 exactly.
  const Double f = hn::Sub(m, set(1.0));
  const Double s = hn::Div(f, hn::Add(m, set(1.0)));
  const Double s2 = hn::Mul(s, s);
  Double series = set(2.0 / 21);
  series = hn::MulAdd(series, s2, set(2.0 / 19));
  series = hn::MulAdd(series, s2, set(2.0 / 17));
  series = hn::MulAdd(series, s2, set(2.0 / 15));
  series = hn::MulAdd(series, s2, set(2.0 / 13));
  series = hn::MulAdd(series, s2, set(2.0 / 11));
  series = hn::MulAdd(series, s2, set(2.0 / 9));
  series = hn::MulAdd(series, s2, set(2.0 / 7));
  series = hn::MulAdd(series, s2, set(2.0 / 5));
  series = hn::MulAdd(series, s2, set(2.0 / 3));
  const Double correction = hn::Mul(s, hn::NegMulAdd(series, s2, f));
  // ln 2 in two parts, the first with few bits: q * high is exact.
  const Double low = hn::MulSub(q, set(0x1.fdf473de6af28p-22), correction);
  return hn::MulAdd(q, set(0x1.62e42p-1), hn::Add(f, low));
}

/// e^x to about 1 ulp for x <= 700 (larger x are the caller's mistake); 0 below -700; NaN stays NaN.
HWY_INLINE Double exp(Double x) {
  const Doubles d;
  const hn::RebindToSigned<Doubles> di;
  // x / ln 2 rounded: adding 1.5 * 2^52 leaves the integer in the low bits.
  const Double magic = set(6755399441055744.0);
  const Double shifted = hn::MulAdd(x, set(std::numbers::log2e), magic);
  const Double q = hn::Sub(shifted, magic);
  Double r = hn::NegMulAdd(q, set(0x1.62e42p-1), x);
  r = hn::NegMulAdd(q, set(0x1.fdf473de6af28p-22), r);
  // Taylor's series: |r| <= ln(2)/2, so what is left out is below 1e-17.
  Double series = set(1.0 / 6227020800);
  series = hn::MulAdd(series, r, set(1.0 / 479001600));
  series = hn::MulAdd(series, r, set(1.0 / 39916800));
  series = hn::MulAdd(series, r, set(1.0 / 3628800));
  series = hn::MulAdd(series, r, set(1.0 / 362880));
  series = hn::MulAdd(series, r, set(1.0 / 40320));
  series = hn::MulAdd(series, r, set(1.0 / 5040));
  series = hn::MulAdd(series, r, set(1.0 / 720));
  series = hn::MulAdd(series, r, set(1.0 / 120));
  series = hn::MulAdd(series, r, set(1.0 / 24));
  series = hn::MulAdd(series, r, set(1.0 / 6));
  series = hn::MulAdd(series, r, set(0.5));
  series = hn::MulAdd(hn::Mul(series, r), r, r);
  const Double fraction = hn::Add(series, set(1.0));
  const auto exponent = hn::ShiftLeft<52>(hn::Add(hn::BitCast(di, shifted), hn::Set(di, 1023)));
  return hn::IfThenZeroElse(hn::Lt(x, set(-700.0)), hn::Mul(fraction, hn::BitCast(d, exponent)));
}

/// erfc x to a relative error of 1e-12 (absolute, where x < 0); NaN stays NaN.
HWY_INLINE Double erfc(Double x) {
  const Double a = hn::Min(set(30.0), hn::Abs(x));  // with the constant on the left: x86 returns the right one for NaN
  // e^(a^2) (1 + 2 a) erfc a is smooth in t = (a - 3.5) / (a + 3.5): its Chebyshev series to degree 18. [derived]
  const Double t = hn::Div(hn::Sub(a, set(3.5)), hn::Add(a, set(3.5)));
  Double series = set(-4.717935691452355e-09);
  series = hn::MulAdd(series, t, set(2.896574678313544e-07));
  series = hn::MulAdd(series, t, set(-5.1302990401082194e-08));
  series = hn::MulAdd(series, t, set(-3.276246080382906e-06));
  series = hn::MulAdd(series, t, set(2.3364985623223626e-06));
  series = hn::MulAdd(series, t, set(2.371483602318815e-05));
  series = hn::MulAdd(series, t, set(-4.278775389739409e-05));
  series = hn::MulAdd(series, t, set(-0.00012117286094960803));
  series = hn::MulAdd(series, t, set(0.0005643866396296629));
  series = hn::MulAdd(series, t, set(-0.0003023975809749535));
  series = hn::MulAdd(series, t, set(-0.00421502042852606));
  series = hn::MulAdd(series, t, set(0.019099360331009407));
  series = hn::MulAdd(series, t, set(-0.04882332576217188));
  series = hn::MulAdd(series, t, set(0.08798315019428887));
  series = hn::MulAdd(series, t, set(-0.11508959816394773));
  series = hn::MulAdd(series, t, set(0.0975190953581177));
  series = hn::MulAdd(series, t, set(-0.01055559633215554));
  series = hn::MulAdd(series, t, set(-0.14000918014102393));
  series = hn::MulAdd(series, t, set(1.2423492448711544));
  const Double upper = hn::Mul(exp(hn::Neg(hn::Mul(a, a))), hn::Div(series, hn::MulAdd(a, set(2.0), set(1.0))));
  return hn::IfThenElse(hn::Lt(x, set(0.0)), hn::Sub(set(2.0), upper), upper);
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
