#include "apps/bench_check.hpp"

#include <cmath>
#include <vector>

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

/// The values of a tensor, in host memory: f32 or bf16.
class HostValues {
 public:
  HostValues(Device& device, const ConstTensor& from) : tensor_(from) {
    if (from.device == DeviceKind::cpu || !from) return;
    copy_.resize(static_cast<std::size_t>(from.bytes()));
    const Tensor to(copy_.data(), from.shape, from.dtype);
    device.copy(from, to);
    tensor_ = to;
  }
  double operator[](std::int64_t i) const {
    return static_cast<double>(is_bf16() ? to_float(tensor_.as<Bf16>()[i]) : tensor_.as<float>()[i]);
  }
  [[nodiscard]] bool is_bf16() const { return tensor_.dtype == Dtype::bf16; }
  [[nodiscard]] const Shape& shape() const { return tensor_.shape; }

 private:
  std::vector<std::byte> copy_;
  ConstTensor tensor_;
};

/// An input of products, as they see it.
struct Input {
  Input(Device& device, const ConstTensor& from, Precision precision_) : values(device, from), precision(precision_) {}
  HostValues values;
  Precision precision;
  double operator[](std::int64_t i) const {
    return precision == Precision::bf16 ? round_to_bf16(values[i]) : values[i];
  }
};

/// Calls entry(place) for places spread over 0 .. elements-1, first and last included, and compares.
template <class Entry>
void compare(Device& device, const ConstTensor& result, const std::string& what, const Entry& entry) {
  const HostValues got(device, result);
  const std::int64_t last = result.elements() - 1;
  for (std::int64_t i = 0; i < kSamples && last >= 0; ++i) {
    const std::int64_t place =
        static_cast<std::int64_t>(static_cast<double>(last) * static_cast<double>(i) / (kSamples - 1));
    const Sum expected = entry(place);
    // f32 sums in any order err far less; a wrong or missing term far more.
    const double rounding = got.is_bf16() ? 0x1p-8 * std::abs(expected.value) : 0;
    const double allowed = 1e-5 * expected.scale + rounding + 1e-30;
    const double found = got[place];
    VITRAIL_EXPECT(std::abs(found - expected.value) <= allowed, ExitCode::numbers,
                   text(what, ": entry ", place, " of ", got.shape().str(), " is ", found, ", not ", expected.value),
                   "the plain loop says otherwise", "This is a bug in the back end or in its library");
  }
}

}  // namespace

void check_linear(Device& device, const LinearForward& call, Precision precision, const std::string& what) {
  const std::int64_t experts = call.x.shape[1], rows = call.x.shape[2], in = call.x.shape[3], out = call.w.shape[2];
  const Input x(device, call.x, precision);
  const Input w(device, call.w, precision);
  const HostValues b(device, call.b);
  compare(device, call.y, what, [&](std::int64_t place) {
    const std::int64_t column = place % out, row = place / out, expert = row / rows % experts;
    Sum sum;
    for (std::int64_t i = 0; i < in; ++i) {
      sum.add(x[row * in + i] * w[(expert * in + i) * out + column]);
    }
    if (call.b) sum.add(b[expert * out + column]);
    return sum;
  });
}

void check_linear(Device& device, const LinearBackward& call, Precision precision, const std::string& what) {
  const std::int64_t leaves = call.x.shape[0], experts = call.x.shape[1], rows = call.x.shape[2];
  const std::int64_t in = call.x.shape[3], out = call.w.shape[2];
  const Input x(device, call.x, precision);
  const Input w(device, call.w, precision);
  const Input dy(device, call.dy, precision);
  const auto over_rows = [&](std::int64_t expert, const auto& term) {
    Sum sum;
    for (std::int64_t leaf = 0; leaf < leaves; ++leaf) {
      for (std::int64_t row = 0; row < rows; ++row) sum.add(term((leaf * experts + expert) * rows + row));
    }
    return sum;
  };
  if (call.dx) {
    compare(device, call.dx, what + ", dx", [&](std::int64_t place) {
      const std::int64_t i = place % in, row = place / in, expert = row / rows % experts;
      Sum sum;
      for (std::int64_t o = 0; o < out; ++o) {
        sum.add(dy[row * out + o] * w[(expert * in + i) * out + o]);
      }
      return sum;
    });
  }
  compare(device, call.dw, what + ", dw", [&](std::int64_t place) {
    const std::int64_t o = place % out, i = place / out % in;
    return over_rows(place / (in * out), [&](std::int64_t row) { return x[row * in + i] * dy[row * out + o]; });
  });
  if (call.db) {
    compare(device, call.db, what + ", db", [&](std::int64_t place) {
      return over_rows(place / out, [&](std::int64_t row) { return dy.values[row * out + place % out]; });
    });
  }
}

}  // namespace vitrail
