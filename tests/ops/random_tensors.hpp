#pragma once
// Tensors that own their memory, and tensors of random numbers, for the tests of the verbs.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <vector>

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
  OwnedTensor(Dtype dtype, Shape shape);
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
  [[nodiscard]] Tensor host();
  [[nodiscard]] ConstTensor host() const;

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
  [[nodiscard]] double get(std::int64_t i) const;
  /// NaN becomes the garbage integer in an integer tensor.
  void set(std::int64_t i, double value);

  /// The same numbers in another dtype.
  [[nodiscard]] OwnedTensor to(Dtype dtype) const;
  [[nodiscard]] std::vector<double> values() const;
  [[nodiscard]] double largest() const;

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
OwnedTensor random_tensor(Dtype dtype, Shape shape, std::uint32_t stream, double scale = 1.0);

/// Integers 0 .. below-1.
OwnedTensor random_integers(Dtype dtype, Shape shape, std::uint32_t stream, std::int64_t below);

/// The largest |a[i] - b[i]|; NaN if any entry of either is.
double largest_difference(const OwnedTensor& a, const OwnedTensor& b);

/// Equal dtype, shape and bytes.
inline bool same_bits(const OwnedTensor& a, const OwnedTensor& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  const void* left = a.host().data;
  const void* right = b.host().data;
  if (left == nullptr || right == nullptr) return a.bytes() == 0;
  return std::memcmp(left, right, static_cast<std::size_t>(a.bytes())) == 0;
}

}  // namespace vitrail::testing
