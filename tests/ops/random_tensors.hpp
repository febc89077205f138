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
#include "device/device.hpp"

namespace vitrail::testing {

/// Where OwnedTensors show verbs their numbers: host memory, or a copy on this device while it is set.
inline Device* test_device = nullptr;

/// Sets it for a scope.
class OnDevice {
 public:
  explicit OnDevice(Device& device) { test_device = &device; }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { test_device = nullptr; }
};

/// A copy of host memory on the test device, made when it is asked for.
class DeviceMirror {
 public:
  DeviceMirror() = default;
  DeviceMirror(const DeviceMirror&) {}            // the copy of a tensor makes a mirror of its own
  DeviceMirror& operator=(const DeviceMirror&) {  // NOLINT(bugprone-unhandled-self-assignment): nothing is taken over
    host_is_newer_ = true;
    return *this;
  }
  ~DeviceMirror() {
    if (memory_ != nullptr) device_->release(memory_, bytes_);
  }
  /// The device's memory, with the host's numbers. `written`: the device may change them.
  void* show(ConstTensor host, bool written) {
    if (memory_ == nullptr) {
      device_ = test_device;
      bytes_ = host.bytes();
      memory_ = device_->allocate(std::max<std::int64_t>(bytes_, 1));
    }
    if (host_is_newer_ && bytes_ > 0) device_->copy(host, Tensor(memory_, host.shape, host.dtype, device_->kind()));
    host_is_newer_ = false;
    device_is_newer_ = device_is_newer_ || written;
    return memory_;
  }
  /// Brings what the device has written to the host. `written`: the host may change it then.
  void bring(Tensor host, bool written) {
    if (device_is_newer_ && bytes_ > 0) {
      device_->copy(ConstTensor(memory_, host.shape, host.dtype, device_->kind()), host);
    }
    device_is_newer_ = false;
    host_is_newer_ = host_is_newer_ || written;
  }

 private:
  Device* device_ = nullptr;
  void* memory_ = nullptr;
  std::int64_t bytes_ = 0;
  bool host_is_newer_ = true;
  bool device_is_newer_ = false;
};

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

  OwnedTensor(const OwnedTensor& other)
      : lines_((other.bring(), other.lines_)), dtype_(other.dtype_), shape_(other.shape_) {}
  OwnedTensor& operator=(const OwnedTensor& other) {
    other.bring();
    lines_ = other.lines_;
    dtype_ = other.dtype_;
    shape_ = other.shape_;
    mirror_ = DeviceMirror();
    return *this;
  }
  ~OwnedTensor() = default;

  operator Tensor() { return view(); }             // NOLINT(google-explicit-constructor)
  operator ConstTensor() const { return view(); }  // NOLINT(google-explicit-constructor)
  /// What a verb sees. A verb may write to it until the next look at the numbers.
  [[nodiscard]] Tensor view() {
    if (test_device == nullptr || !*this) return host();
    return {mirror_.show({lines_.data(), shape_, dtype_}, true), shape_, dtype_, test_device->kind()};
  }
  [[nodiscard]] ConstTensor view() const {
    if (test_device == nullptr || !*this) return host();
    return {mirror_.show({lines_.data(), shape_, dtype_}, false), shape_, dtype_, test_device->kind()};
  }
  /// The numbers in host memory.
  [[nodiscard]] Tensor host() {
    mirror_.bring({data(), shape_, dtype_}, true);
    return {data(), shape_, dtype_};
  }
  [[nodiscard]] ConstTensor host() const {
    bring();
    return {data(), shape_, dtype_};
  }

  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] Dtype dtype() const { return dtype_; }
  [[nodiscard]] std::int64_t elements() const { return shape_.elements(); }
  [[nodiscard]] std::int64_t bytes() const { return elements() * size_of(dtype_); }
  [[nodiscard]] explicit operator bool() const { return !lines_.empty(); }

  template <class T>
  [[nodiscard]] T* as() {
    return host().template as<T>();
  }
  template <class T>
  [[nodiscard]] const T* as() const {
    return host().template as<T>();
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
  void bring() const { mirror_.bring({const_cast<Line*>(lines_.data()), shape_, dtype_}, false); }
  [[nodiscard]] void* data() { return lines_.empty() ? nullptr : lines_.data(); }
  [[nodiscard]] const void* data() const { return lines_.empty() ? nullptr : lines_.data(); }

  std::vector<Line> lines_;
  Dtype dtype_ = Dtype::f32;
  Shape shape_{0};
  mutable DeviceMirror mirror_;
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
  const void* left = a.host().data;
  const void* right = b.host().data;
  if (left == nullptr || right == nullptr) return a.bytes() == 0;
  return std::memcmp(left, right, static_cast<std::size_t>(a.bytes())) == 0;
}

}  // namespace vitrail::testing
