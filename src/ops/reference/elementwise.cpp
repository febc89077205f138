// Dropout, bfloat16 and what else treats every element alone.

#include "base/bf16.hpp"
#include "ops/dropout_mask.hpp"
#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {

// y[i] = residual[i] + factor(index of i) x[i]
template <class T>
void dropout(const Dropout& a) {
  const DropoutMask mask(a.draw);
  for (std::int64_t i = 0; i < a.y.elements(); ++i) {
    const T x = a.x ? a.x.as<T>()[i] : T(1.0);
    const T residual = a.residual ? a.residual.as<T>()[i] : T{};
    a.y.as<T>()[i] = residual + mask.factor(mask.index_of(i)) * x;
  }
}

// y[i] = bf16(x[i]); of complex numbers the real part alone travels
template <class T>
void to_bf16(const ToBf16& a) {
  for (std::int64_t i = 0; i < a.y.elements(); ++i) a.y.as<Bf16>()[i] = vitrail::to_bf16(real_part(a.x.as<T>()[i]));
}

// y[i] = residual[i] + x[i]
template <class T>
void from_bf16(const FromBf16& a) {
  for (std::int64_t i = 0; i < a.y.elements(); ++i) {
    const T residual = a.residual ? a.residual.as<T>()[i] : T{};
    a.y.as<T>()[i] = residual + static_cast<double>(to_float(a.x.as<Bf16>()[i]));
  }
}

VITRAIL_REFERENCE_VERB(dropout, Dropout)
VITRAIL_REFERENCE_VERB(to_bf16, ToBf16)
VITRAIL_REFERENCE_VERB(from_bf16, FromBf16)

}  // namespace vitrail::reference
