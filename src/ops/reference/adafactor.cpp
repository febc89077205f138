// Adafactor.

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

/// Unit number `i` of a call: [a x b y c] factored over x and y, or n elements that are not factored.
template <class T>
struct Unit {
  Unit(const AdafactorStep& step, std::int64_t i) {
    const auto* factors = step.factors.as<std::int64_t>() + 5 * i;
    a = factors[0], x = factors[1], b = factors[2], y = factors[3], c = factors[4];
    first = step.unit_begin.as<std::int64_t>()[i];
    over_x = step.statistics.as<T>() + step.statistics_begin.as<std::int64_t>()[i];
    over_y = over_x + a * b * y * c;
  }
  [[nodiscard]] bool factored() const { return x > 0; }
  [[nodiscard]] std::int64_t elements() const { return factored() ? a * x * b * y * c : a; }

  std::int64_t a, x, b, y, c;
  std::int64_t first;  // its first element in the slice
  T* over_x;           // [a b y c], or v [n]
  T* over_y;           // [a x b c]
};

/// d of every element of a unit.
template <class T>
std::vector<T> gradients(const AdafactorStep& a, const Unit<T>& unit, double multiplier) {
  const double gradient_scale = gradient_scale_of(a);
  std::vector<T> d(static_cast<std::size_t>(unit.elements()));
  for (std::size_t i = 0; i < d.size(); ++i) {
    d[i] = a.gradient.as<T>()[unit.first + static_cast<std::int64_t>(i)] * multiplier * gradient_scale;
    if (a.clip_absolute > 0.0) d[i] = clamp(d[i], a.clip_absolute);
  }
  return d;
}

// v = decay_rate v + (1 - decay_rate) (d^2 + epsilon);  d becomes u = d v^-1/2
template <class T>
void precondition_each(const AdafactorStep& a, const Unit<T>& unit, std::vector<T>& d) {
  T* const v = unit.over_x;
  for (std::size_t i = 0; i < d.size(); ++i) {
    v[i] = a.decay_rate * v[i] + (1.0 - a.decay_rate) * (d[i] * d[i] + a.epsilon);
    d[i] /= std::sqrt(v[i]);
  }
}

// over_x = decay_rate over_x + (1 - decay_rate) mean over x of (d^2 + epsilon), over_y likewise over y;
// d becomes u = d (over_x / mean over y of over_x)^-1/2 over_y^-1/2
template <class T>
void precondition_factored(const AdafactorStep& step, const Unit<T>& unit, std::vector<T>& d) {
  const std::int64_t x = unit.x, y = unit.y, c = unit.c;
  for (std::int64_t outer = 0; outer < unit.a * unit.b * c; ++outer) {
    const std::int64_t ia = outer / (unit.b * c), ib = outer / c % unit.b, ic = outer % c;
    const auto at = [&](std::int64_t ix, std::int64_t iy) -> T& {
      return d[static_cast<std::size_t>((((ia * x + ix) * unit.b + ib) * y + iy) * c + ic)];
    };
    const auto over_x = [&](std::int64_t iy) -> T& { return unit.over_x[((ia * unit.b + ib) * y + iy) * c + ic]; };
    const auto over_y = [&](std::int64_t ix) -> T& { return unit.over_y[((ia * x + ix) * unit.b + ib) * c + ic]; };
    const auto move = [&](T& statistic, const T& sum, std::int64_t n) {
      statistic = step.decay_rate * statistic + (1.0 - step.decay_rate) * (sum / static_cast<double>(n) + step.epsilon);
    };
    T mean{};
    for (std::int64_t iy = 0; iy < y; ++iy) {
      T sum{};
      for (std::int64_t ix = 0; ix < x; ++ix) sum += at(ix, iy) * at(ix, iy);
      move(over_x(iy), sum, x);
      mean += over_x(iy) / static_cast<double>(y);
    }
    for (std::int64_t ix = 0; ix < x; ++ix) {
      T sum{};
      for (std::int64_t iy = 0; iy < y; ++iy) sum += at(ix, iy) * at(ix, iy);
      move(over_y(ix), sum, y);
    }
    for (std::int64_t ix = 0; ix < x; ++ix) {
      for (std::int64_t iy = 0; iy < y; ++iy) at(ix, iy) /= std::sqrt(over_x(iy) / mean) * std::sqrt(over_y(ix));
    }
  }
}

}  // namespace

// u of a unit as above;  m = momentum m + (1 - momentum) u, u = m;  parameter -= learning_rate (u + decay parameter)
// bf16_momentum: m = bf16(bf16(momentum) m) + (1 - momentum) u, rounded when it is stored.
template <class T>
void adafactor_step(const AdafactorStep& a) {
  if (halted(a)) return;
  for (std::int64_t number = 0; number < a.unit_begin.elements(); ++number) {
    const Unit<T> unit(a, number);
    const double decay = a.decay.as<double>()[number];
    const bool frozen = a.frozen.as<std::uint8_t>()[number] != 0;
    std::vector<T> update = gradients(a, unit, a.multiplier.as<double>()[number]);
    if (unit.factored()) {
      precondition_factored(a, unit, update);
    } else {
      precondition_each(a, unit, update);
    }
    T* const parameter = a.parameter.as<T>() + unit.first;
    for (std::size_t i = 0; i < update.size(); ++i) {
      T u = update[i];
      if (a.m) {
        T& m = a.m.as<T>()[unit.first + static_cast<std::int64_t>(i)];
        u = (a.bf16_momentum ? rounded(rounded(T(a.momentum)) * m) : a.momentum * m) + (1.0 - a.momentum) * u;
        m = a.bf16_momentum ? rounded(u) : u;
      }
      if (!frozen) parameter[i] -= a.learning_rate * (u + decay * parameter[i]);
    }
  }
}

VITRAIL_REFERENCE_VERB(adafactor_step, AdafactorStep)

}  // namespace vitrail::reference
