// Random numbers, sums and the parameter update.

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
// y[i] = normal number of index first_index + i
template <class T>
void random_normal(const RandomNormal& a) {
  const Philox random(a.seed, a.purpose, a.step, a.layer);
  for (std::int64_t i = 0; i < a.y.elements(); ++i)
    a.y.as<T>()[i] = random.normal(a.first_index + static_cast<std::uint64_t>(i));
}

// number `index` of a parameter tensor
double initial_number(const InitialValues& a, std::uint64_t index) {
  switch (a.number) {
    case InitialValues::Number::one:
      break;
    case InitialValues::Number::uniform:
      return 2.0 * Philox(a.seed, Purpose::initialisation, 0, a.tensor).uniform(index) - 1.0;
    case InitialValues::Number::normal:
      return Philox(a.seed, Purpose::initialisation, 0, a.tensor).normal(index);
    case InitialValues::Number::truncated_normal:
      for (std::uint64_t step = 0;; ++step) {
        const double x = Philox(a.seed, Purpose::initialisation, step, a.tensor).normal(index);
        if (std::abs(x) <= InitialValues::kTruncatedAt) return x;
      }
  }
  return 1.0;
}

// y[c,i] = scale * number first_index + i, for all copies c
template <class T>
void initial_values(const InitialValues& a) {
  const std::int64_t n = a.y.shape[1];
  for (std::int64_t i = 0; i < a.y.elements(); ++i)
    a.y.as<T>()[i] = a.scale * initial_number(a, a.first_index + static_cast<std::uint64_t>(i % n));
}

// y = y + x
template <class T>
void accumulate(const Accumulate& a) {
  for (std::int64_t i = 0; i < a.y.elements(); ++i) a.y.as<T>()[i] += a.x.as<T>()[i];
}

// sums[b] = sum over block b of x^2; of complex numbers the real part alone counts
template <class T>
void block_square_sums(const BlockSquareSums& a) {
  const auto* begin = a.block_begin.as<std::int64_t>();
  for (std::int64_t b = 0; b < a.sums.elements(); ++b) {
    double sum = 0.0;
    for (std::int64_t i = begin[b]; i < begin[b + 1]; ++i) {
      const double x = real_part(a.x.as<T>()[i]);
      sum += x * x;
    }
    a.sums.as<double>()[b] = sum;
  }
}

// norm = sqrt(sum over i of sums[order[i]] weights[i]);  scale = clip_norm / norm if norm >= clip_norm > 0, else 1
// halt = 1 if norm or any of sums is not finite
template <class T>
void clip_scale(const ClipScale& a) {
  const auto* sums = a.sums.as<double>();
  double squares = 0.0;
  for (std::int64_t i = 0; i < a.order.elements(); ++i)
    squares += sums[a.order.as<std::int64_t>()[i]] * a.weights.as<double>()[i];
  const double norm = std::sqrt(squares);
  bool finite = is_finite(norm);
  for (std::int64_t place = 0; place < a.sums.elements(); ++place) finite = finite && is_finite(sums[place]);
  a.norm.as<double>()[0] = norm;
  a.scale.as<double>()[0] = a.clip_norm > 0.0 && norm >= a.clip_norm ? a.clip_norm / norm : 1.0;
  if (!finite) a.halt.as<std::int32_t>()[0] = 1;
}

// d = gradient * multiplier[block] * gradient_scale, clamped to +-clip_absolute if that is positive
// m = b1 m + (1 - b1) d;  v = b2 v + (1 - b2) d^2
// u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + decay[block] parameter;  parameter -= learning_rate u
// A frozen block keeps its parameters; its moments move. bf16_moment: m = bf16(bf16(b1) m) + (1 - b1) d, rounded when
// it is stored.
template <class T>
void adamw_step(const AdamWStep& a) {
  if (halted(a)) return;
  const auto* begin = a.block_begin.as<std::int64_t>();
  const double gradient_scale = gradient_scale_of(a);
  const double t = static_cast<double>(a.updates);
  const double correction1 = 1.0 - std::pow(a.beta1, t), correction2 = 1.0 - std::pow(a.beta2, t);
  for (std::int64_t b = 0; b < a.decay.elements(); ++b) {
    const double decay = a.decay.as<double>()[b], multiplier = a.multiplier.as<double>()[b];
    const bool frozen = a.frozen.as<std::uint8_t>()[b] != 0;
    for (std::int64_t i = begin[b]; i < begin[b + 1]; ++i) {
      T &parameter = a.parameter.as<T>()[i], &m = a.m.as<T>()[i], &v = a.v.as<T>()[i];
      T d = a.gradient.as<T>()[i] * multiplier * gradient_scale;
      if (a.clip_absolute > 0.0) d = clamp(d, a.clip_absolute);
      m = (a.bf16_moment ? rounded(rounded(T(a.beta1)) * m) : a.beta1 * m) + (1.0 - a.beta1) * d;
      v = a.beta2 * v + (1.0 - a.beta2) * (d * d);
      const T u = m / correction1 / (std::sqrt(v / correction2) + a.epsilon) + decay * parameter;
      if (!frozen) parameter -= a.learning_rate * u;
      if (a.bf16_moment) m = rounded(m);
    }
  }
}

// d as above
// trace = d + momentum trace;  parameter -= learning_rate (trace + decay[block] parameter); without a trace it is d
// bf16_trace: trace = d + bf16(bf16(momentum) trace), rounded when it is stored.
template <class T>
void sgd_step(const SgdStep& a) {
  if (halted(a)) return;
  const auto* begin = a.block_begin.as<std::int64_t>();
  const double gradient_scale = gradient_scale_of(a);
  for (std::int64_t b = 0; b < a.decay.elements(); ++b) {
    const double decay = a.decay.as<double>()[b], multiplier = a.multiplier.as<double>()[b];
    const bool frozen = a.frozen.as<std::uint8_t>()[b] != 0;
    for (std::int64_t i = begin[b]; i < begin[b + 1]; ++i) {
      T& parameter = a.parameter.as<T>()[i];
      T u = a.gradient.as<T>()[i] * multiplier * gradient_scale;
      if (a.clip_absolute > 0.0) u = clamp(u, a.clip_absolute);
      if (a.trace) {
        T& trace = a.trace.as<T>()[i];
        u += a.bf16_trace ? rounded(rounded(T(a.momentum)) * trace) : a.momentum * trace;
        trace = a.bf16_trace ? rounded(u) : u;
      }
      if (!frozen) parameter -= a.learning_rate * (u + decay * parameter);
    }
  }
}

// y = decay y + (1 - decay) x
template <class T>
void running_average(const RunningAverage& a) {
  if (halted(a)) return;
  for (std::int64_t i = 0; i < a.y.elements(); ++i) {
    T& y = a.y.as<T>()[i];
    y = a.decay * y + (1.0 - a.decay) * a.x.as<T>()[i];
  }
}

// finite[0] = 1 if every x[i] is a finite number, else 0
template <class T>
void all_finite(const AllFinite& a) {
  bool finite = true;
  for (std::int64_t i = 0; i < a.x.elements(); ++i) finite = finite && is_finite(a.x.as<T>()[i]);
  a.finite.as<std::int32_t>()[0] = finite ? 1 : 0;
}

VITRAIL_REFERENCE_VERB(random_normal, RandomNormal)
VITRAIL_REFERENCE_VERB(initial_values, InitialValues)
VITRAIL_REFERENCE_VERB(accumulate, Accumulate)
VITRAIL_REFERENCE_VERB(block_square_sums, BlockSquareSums)
VITRAIL_REFERENCE_VERB(clip_scale, ClipScale)
VITRAIL_REFERENCE_VERB(adamw_step, AdamWStep)
VITRAIL_REFERENCE_VERB(sgd_step, SgdStep)
VITRAIL_REFERENCE_VERB(running_average, RunningAverage)
VITRAIL_REFERENCE_VERB(all_finite, AllFinite)

}  // namespace vitrail::reference
