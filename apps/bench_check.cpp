#include "apps/bench_check.hpp"

#include <cmath>

#include "base/bf16.hpp"

namespace vitrail {

namespace {

constexpr std::int64_t kSamples = 48;

/// A sum and the sum of its absolute terms.
struct Sum {
  double value = 0;
  double scale = 0;
  void add(double term) {
    value += term;
    scale += std::abs(term);
  }
};

/// An input of products, as they see it.
struct Input {
  const float* values;
  Precision precision;
  double operator[](std::int64_t i) const {
    const auto value = static_cast<double>(values[i]);
    return precision == Precision::bf16 ? round_to_bf16(value) : value;
  }
};

/// Calls entry(place) for places spread over 0 .. elements-1, first and last included, and compares.
template <class Entry>
void compare(const ConstTensor& got, const std::string& what, const Entry& entry) {
  const float* const values = got.as<float>();
  const std::int64_t last = got.elements() - 1;
  for (std::int64_t i = 0; i < kSamples && last >= 0; ++i) {
    const std::int64_t place =
        static_cast<std::int64_t>(static_cast<double>(last) * static_cast<double>(i) / (kSamples - 1));
    const Sum expected = entry(place);
    // f32 sums in any order err far less; a wrong or missing term far more.
    const double allowed = 1e-5 * expected.scale + 1e-30;
    const double found = static_cast<double>(values[place]);
    VITRAIL_EXPECT(std::abs(found - expected.value) <= allowed, ExitCode::numbers,
                   text(what, ": entry ", place, " of ", got.shape.str(), " is ", found, ", not ", expected.value),
                   "the plain loop says otherwise", "This is a bug in the back end or in its library");
  }
}

}  // namespace

void check_linear(const LinearForward& call, Precision precision, const std::string& what) {
  const std::int64_t experts = call.x.shape[1], rows = call.x.shape[2], in = call.x.shape[3], out = call.w.shape[2];
  const Input x{call.x.as<float>(), precision};
  const Input w{call.w.as<float>(), precision};
  compare(call.y, what, [&](std::int64_t place) {
    const std::int64_t column = place % out, row = place / out, expert = row / rows % experts;
    Sum sum;
    for (std::int64_t i = 0; i < in; ++i) {
      sum.add(x[row * in + i] * w[(expert * in + i) * out + column]);
    }
    if (call.b) sum.add(static_cast<double>(call.b.as<float>()[expert * out + column]));
    return sum;
  });
}

void check_linear(const LinearBackward& call, Precision precision, const std::string& what) {
  const std::int64_t leaves = call.x.shape[0], experts = call.x.shape[1], rows = call.x.shape[2];
  const std::int64_t in = call.x.shape[3], out = call.w.shape[2];
  const Input x{call.x.as<float>(), precision};
  const Input w{call.w.as<float>(), precision};
  const Input dy{call.dy.as<float>(), precision};
  const auto over_rows = [&](std::int64_t expert, const auto& term) {
    Sum sum;
    for (std::int64_t leaf = 0; leaf < leaves; ++leaf) {
      for (std::int64_t row = 0; row < rows; ++row) sum.add(term((leaf * experts + expert) * rows + row));
    }
    return sum;
  };
  if (call.dx) {
    compare(call.dx, what + ", dx", [&](std::int64_t place) {
      const std::int64_t i = place % in, row = place / in, expert = row / rows % experts;
      Sum sum;
      for (std::int64_t o = 0; o < out; ++o) {
        sum.add(dy[row * out + o] * w[(expert * in + i) * out + o]);
      }
      return sum;
    });
  }
  compare(call.dw, what + ", dw", [&](std::int64_t place) {
    const std::int64_t o = place % out, i = place / out % in;
    return over_rows(place / (in * out), [&](std::int64_t row) { return x[row * in + i] * dy[row * out + o]; });
  });
  if (call.db) {
    compare(call.db, what + ", db", [&](std::int64_t place) {
      return over_rows(place / out,
                       [&](std::int64_t row) { return static_cast<double>(dy.values[row * out + place % out]); });
    });
  }
}

}  // namespace vitrail
