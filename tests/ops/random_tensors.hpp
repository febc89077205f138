#pragma once
// Tensors that own their memory, and tensors of random numbers, for the tests of the verbs.

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <vector>

#include "base/philox.hpp"
#include "device/tensor.hpp"

namespace vitrail::testing {

/// A tensor with memory of its own (64-byte aligned); a copy copies the numbers. It turns into Tensor and ConstTensor
/// where a verb wants them: ops.tanh_forward({.x = x, .y = y}).
class OwnedTensor {
 public:
  /// Left out: false as an optional argument.
  OwnedTensor() = default;
  /// Filled with garbage: NaN, or -77 for integers (0xB3 for u8). So a verb that does not overwrite is seen.
  OwnedTensor(Dtype dtype, Shape shape) : dtype_(dtype), shape_(shape) {
    lines_.resize(static_cast<std::size_t>(shape.elements() * size_of(dtype)) / sizeof(Line) + 1);
    for (std::int64_t i = 0; i < elements(); ++i) set(i, std::numeric_limits<double>::quiet_NaN());
  }
  OwnedTensor(Dtype dtype, Shape shape, std::initializer_list<double> values) : OwnedTensor(dtype, shape) {
    VITRAIL_EXPECT(static_cast<std::int64_t>(values.size()) == elements(), ExitCode::other,
                   text(values.size(), " values for a tensor ", shape.str()), "the test is wrong", "");
    std::int64_t i = 0;
    for (const double value : values) set(i++, value);
  }

  operator Tensor() { return {data(), shape_, dtype_}; }             // NOLINT(google-explicit-constructor)
  operator ConstTensor() const { return {data(), shape_, dtype_}; }  // NOLINT(google-explicit-constructor)
  [[nodiscard]] Tensor view() { return {data(), shape_, dtype_}; }
  [[nodiscard]] ConstTensor view() const { return {data(), shape_, dtype_}; }

  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] Dtype dtype() const { return dtype_; }
  [[nodiscard]] std::int64_t elements() const { return shape_.elements(); }
  [[nodiscard]] std::int64_t bytes() const { return elements() * size_of(dtype_); }
  [[nodiscard]] explicit operator bool() const { return !lines_.empty(); }

  template <class T>
  [[nodiscard]] T* as() {
    return view().template as<T>();
  }
  template <class T>
  [[nodiscard]] const T* as() const {
    return view().template as<T>();
  }

  /// Element i as a double; the real part of a complex one.
  [[nodiscard]] double get(std::int64_t i) const {
    switch (dtype_) {
      case Dtype::f32:
        return static_cast<double>(as<float>()[i]);
      case Dtype::f64:
        return as<double>()[i];
      case Dtype::c128:
        return as<std::complex<double>>()[i].real();
      case Dtype::i32:
        return as<std::int32_t>()[i];
      case Dtype::i64:
        return static_cast<double>(as<std::int64_t>()[i]);
      case Dtype::u8:
        return as<std::uint8_t>()[i];
      case Dtype::bf16:
        return static_cast<double>(to_float(as<Bf16>()[i]));
    }
    fail(ExitCode::other, {"a test tensor of an unknown dtype", "not supported", ""});
  }
  /// NaN becomes the garbage integer in an integer tensor.
  void set(std::int64_t i, double value) {
    const bool garbage = std::isnan(value);
    switch (dtype_) {
      case Dtype::f32:
        as<float>()[i] = static_cast<float>(value);
        return;
      case Dtype::f64:
        as<double>()[i] = value;
        return;
      case Dtype::c128:
        as<std::complex<double>>()[i] = {value, garbage ? value : 0.0};
        return;
      case Dtype::i32:
        as<std::int32_t>()[i] = garbage ? -77 : static_cast<std::int32_t>(value);
        return;
      case Dtype::i64:
        as<std::int64_t>()[i] = garbage ? -77 : static_cast<std::int64_t>(value);
        return;
      case Dtype::u8:
        as<std::uint8_t>()[i] = garbage ? std::uint8_t{0xB3} : static_cast<std::uint8_t>(value);
        return;
      case Dtype::bf16:
        as<Bf16>()[i] = to_bf16(value);
        return;
    }
  }

  /// The same numbers in another dtype.
  [[nodiscard]] OwnedTensor to(Dtype dtype) const {
    if (!*this) return {};
    OwnedTensor other(dtype, shape_);
    for (std::int64_t i = 0; i < elements(); ++i) other.set(i, get(i));
    return other;
  }
  [[nodiscard]] std::vector<double> values() const {
    std::vector<double> all;
    for (std::int64_t i = 0; i < elements(); ++i) all.push_back(get(i));
    return all;
  }
  [[nodiscard]] double largest() const {
    double result = 0.0;
    for (std::int64_t i = 0; i < elements(); ++i) result = std::max(result, std::abs(get(i)));
    return result;
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  [[nodiscard]] void* data() { return lines_.empty() ? nullptr : lines_.data(); }
  [[nodiscard]] const void* data() const { return lines_.empty() ? nullptr : lines_.data(); }

  std::vector<Line> lines_;
  Dtype dtype_ = Dtype::f32;
  Shape shape_{0};
};

/// Normal numbers times `scale`, rounded to f32 first (so that f32, f64 and c128 tensors of one `stream` hold exactly
/// the same numbers). Give every tensor of a test another `stream`.
inline OwnedTensor random_tensor(Dtype dtype, Shape shape, std::uint32_t stream, double scale = 1.0) {
  OwnedTensor tensor(dtype, shape);
  const Philox random(20240229, Purpose::test, stream);
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    tensor.set(i, static_cast<double>(static_cast<float>(scale * random.normal(static_cast<std::uint64_t>(i)))));
  return tensor;
}

/// Integers 0 .. below-1.
inline OwnedTensor random_integers(Dtype dtype, Shape shape, std::uint32_t stream, std::int64_t below) {
  OwnedTensor tensor(dtype, shape);
  const Philox random(20240229, Purpose::test, stream);
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    tensor.set(i, std::floor(random.uniform(static_cast<std::uint64_t>(i)) * static_cast<double>(below)));
  return tensor;
}

/// The largest |a[i] - b[i]|; NaN if any entry of either is.
inline double largest_difference(const OwnedTensor& a, const OwnedTensor& b) {
  VITRAIL_EXPECT(a.shape() == b.shape(), ExitCode::other, text(a.shape().str(), " against ", b.shape().str()),
                 "the test compares tensors of different shapes", "");
  double result = 0.0;
  for (std::int64_t i = 0; i < a.elements(); ++i) {
    const double difference = std::abs(a.get(i) - b.get(i));
    if (std::isnan(difference)) return difference;
    result = std::max(result, difference);
  }
  return result;
}

/// Equal dtype, shape and bytes.
inline bool same_bits(const OwnedTensor& a, const OwnedTensor& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  const void* left = a.view().data;
  const void* right = b.view().data;
  if (left == nullptr || right == nullptr) return a.bytes() == 0;
  return std::memcmp(left, right, static_cast<std::size_t>(a.bytes())) == 0;
}

}  // namespace vitrail::testing
