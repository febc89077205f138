#include "ops/cpu/update_kernels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/update_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

HWY_INLINE Vector scaled(const GradientScale& a, const float* gradient, std::int64_t count) {
  const Vector clip = set(a.clip);
  return hn::Max(hn::Neg(clip), hn::Min(clip, hn::Mul(load(gradient, count), set(a.scale))));  // NaN stays NaN
}

/// The nearest bfloat16, ties to even; NaN stays NaN.
HWY_INLINE Vector round_bf16(Vector x) {
  const Floats d;
  const hn::RebindToUnsigned<Floats> du;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto nearest = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
  return hn::IfThenElse(hn::IsNaN(x), x, hn::BitCast(d, hn::And(nearest, hn::Set(du, 0xFFFF0000U))));
}

HWY_INLINE Vector decayed(const UpdateRun& a, std::int64_t i, std::int64_t count) {
  const Vector m = hn::Mul(set(a.momentum), load(a.m + i, count));
  return a.bf16 ? round_bf16(m) : m;
}

HWY_INLINE void store_momentum(const UpdateRun& a, Vector m, std::int64_t i, std::int64_t count) {
  store(a.bf16 ? round_bf16(m) : m, a.m + i, count);
}

HWY_INLINE void move(const UpdateRun& a, Vector u, std::int64_t i, std::int64_t count) {
  if (a.frozen) return;
  const Vector p = load(a.parameter + i, count);
  store(hn::NegMulAdd(set(a.learning_rate), hn::MulAdd(set(a.decay), p, u), p), a.parameter + i, count);
}

void Sgd(const UpdateRun& a) {
  for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
    Vector u = scaled(a.d, a.gradient + i, count);
    if (a.m != nullptr) {
      u = hn::Add(u, decayed(a, i, count));
      store_momentum(a, u, i, count);
    }
    move(a, u, i, count);
  });
}

void Adafactor(const UpdateRun& a, const float* columns, const float* rows, float row, float one_minus_momentum) {
  for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
    Vector u = hn::Mul(scaled(a.d, a.gradient + i, count), set(row));
    if (rows != nullptr) u = hn::Mul(u, load(rows + i, count));
    u = hn::Div(u, hn::Sqrt(load(columns + i, count, 1.0F)));
    if (a.m != nullptr) {
      u = hn::MulAdd(set(one_minus_momentum), u, decayed(a, i, count));
      store_momentum(a, u, i, count);
    }
    move(a, u, i, count);
  });
}

/// `sum` of n squares becomes a part of the running mean.
HWY_INLINE Vector moved(const StatisticRun& a, Vector statistic, Vector sum, std::int64_t n) {
  const Vector mean = hn::Add(hn::Mul(sum, set(1.0F / static_cast<float>(n))), set(a.epsilon));
  return hn::MulAdd(set(a.decay_rate), statistic, hn::Mul(set(a.one_minus_decay_rate), mean));
}

// Sums in runs of 32 rows, so that their error grows with the run and not with the whole.
void ColumnStatistics(const StatisticRun& a, const float* gradient, std::int64_t rows, std::int64_t stride,
                      std::int64_t columns, float* statistics) {
  HWY_ALIGN float run[kMostColumns];
  HWY_ALIGN float total[kMostColumns];
  for (std::int64_t i = 0; i < columns; ++i) run[i] = total[i] = 0.0F;
  for (std::int64_t row = 0; row < rows; ++row) {
    const bool ends = row % 32 == 31 || row + 1 == rows;
    for_vectors(columns, [&](std::int64_t i, std::int64_t count) {
      const Vector d = scaled(a.d, gradient + row * stride + i, count);
      const Vector sum = hn::MulAdd(d, d, load(run + i, count));
      store(ends ? zero() : sum, run + i, count);
      if (ends) store(hn::Add(sum, load(total + i, count)), total + i, count);
    });
  }
  for_vectors(columns, [&](std::int64_t i, std::int64_t count) {
    store(moved(a, load(statistics + i, count), load(total + i, count), rows), statistics + i, count);
  });
}

void RowStatistic(const StatisticRun& a, const float* gradient, std::int64_t n, float* statistic) {
  LongSum sum;
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    const Vector d = scaled(a.d, gradient + i, count);
    sum.add(hn::Mul(d, d));
  });
  store(moved(a, load(statistic, 1), set(sum.value()), n), statistic, 1);
}

float MeanOfRun(const float* x, std::int64_t n) {
  LongSum sum;
  for_vectors(n, [&](std::int64_t i, std::int64_t count) { sum.add(load(x + i, count)); });
  return sum.value() / static_cast<float>(n);
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(Sgd);
HWY_EXPORT(Adafactor);
HWY_EXPORT(ColumnStatistics);
HWY_EXPORT(RowStatistic);
HWY_EXPORT(MeanOfRun);

void sgd_run(const UpdateRun& a) { HWY_DYNAMIC_DISPATCH(Sgd)(a); }
void adafactor_run(const UpdateRun& a, const float* columns, const float* rows, float row, float one_minus_momentum) {
  HWY_DYNAMIC_DISPATCH(Adafactor)(a, columns, rows, row, one_minus_momentum);
}
void column_statistics(const StatisticRun& a, const float* gradient, std::int64_t rows, std::int64_t stride,
                       std::int64_t columns, float* statistics) {
  HWY_DYNAMIC_DISPATCH(ColumnStatistics)(a, gradient, rows, stride, columns, statistics);
}
void row_statistic(const StatisticRun& a, const float* gradient, std::int64_t n, float* statistic) {
  HWY_DYNAMIC_DISPATCH(RowStatistic)(a, gradient, n, statistic);
}
float mean_of_run(const float* x, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(MeanOfRun)(x, n); }

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
