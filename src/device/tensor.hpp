#pragma once
// Tensors are views: a pointer, a shape, a dtype and the device whose memory it is. Row-major and contiguous, always.
// They own nothing and are passed by value; memory belongs to an Arena (device/arena.hpp).

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

#include "base/dtype.hpp"
#include "base/error.hpp"

namespace vitrail {

enum class DeviceKind : std::uint8_t { cpu, cuda };

/// Lengths of the axes, outermost first. At most 6 axes; none means one element (a scalar).
class Shape {
 public:
  static constexpr int kMaxAxes = 6;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> lengths);
  explicit Shape(std::span<const std::int64_t> lengths);

  [[nodiscard]] int axes() const noexcept { return axes_; }
  [[nodiscard]] std::int64_t operator[](int axis) const noexcept { return lengths_[static_cast<std::size_t>(axis)]; }
  [[nodiscard]] std::int64_t elements() const noexcept {
    std::int64_t product = 1;
    for (int axis = 0; axis < axes_; ++axis) product *= (*this)[axis];
    return product;
  }
  [[nodiscard]] std::span<const std::int64_t> lengths() const noexcept {
    return {lengths_.data(), static_cast<std::size_t>(axes_)};
  }
  [[nodiscard]] std::string str() const;  ///< "[2, 3]"
  friend bool operator==(const Shape& a, const Shape& b) noexcept;

 private:
  std::array<std::int64_t, kMaxAxes> lengths_{};
  int axes_ = 0;
};

template <class Pointer>
struct BasicTensor {
  Pointer data = nullptr;
  Shape shape{0};
  Dtype dtype = Dtype::f32;
  DeviceKind device = DeviceKind::cpu;

  BasicTensor() = default;
  BasicTensor(Pointer data_, Shape shape_, Dtype dtype_, DeviceKind device_ = DeviceKind::cpu)
      : data(data_), shape(shape_), dtype(dtype_), device(device_) {}
  /// A Tensor converts to a ConstTensor.
  template <class Other>
  requires(!std::is_same_v<Other, Pointer> && std::is_convertible_v<Other, Pointer>)
      BasicTensor(const BasicTensor<Other>& other)  // NOLINT(google-explicit-constructor)
      : data(other.data), shape(other.shape), dtype(other.dtype), device(other.device) {}

  /// False for an optional argument that was left out.
  [[nodiscard]] explicit operator bool() const noexcept { return data != nullptr; }
  [[nodiscard]] std::int64_t elements() const noexcept { return shape.elements(); }
  [[nodiscard]] std::int64_t bytes() const noexcept { return elements() * size_of(dtype); }

  /// The elements as T; an Error if the dtype is another one.
  template <class T>
  [[nodiscard]] auto as() const {
    using Element = std::conditional_t<std::is_same_v<Pointer, const void*>, const T, T>;
    VITRAIL_EXPECT(dtype == dtype_of<T>, ExitCode::other,
                   text("a tensor of ", name_of(dtype), " was taken for one of ", name_of(dtype_of<T>)),
                   "this is a bug", "");
    return static_cast<Element*>(data);
  }

  /// The same elements under another shape of equal size.
  [[nodiscard]] BasicTensor view(Shape other) const {
    VITRAIL_EXPECT(other.elements() == elements(), ExitCode::other,
                   text("a tensor ", shape.str(), " cannot be seen as ", other.str()), "the numbers of elements differ",
                   "");
    BasicTensor seen = *this;
    seen.shape = other;
    return seen;
  }

  /// `count` entries of the first axis, from `first`.
  [[nodiscard]] BasicTensor slice(std::int64_t first, std::int64_t count) const {
    VITRAIL_EXPECT(shape.axes() > 0 && first >= 0 && count >= 0 && first + count <= shape[0], ExitCode::other,
                   text("entries ", first, " to ", first + count, " of a tensor ", shape.str()),
                   "outside its first axis", "");
    const auto lengths = shape.lengths();
    std::array<std::int64_t, Shape::kMaxAxes> cut{};
    std::int64_t stride = 1;
    for (std::size_t axis = 0; axis < lengths.size(); ++axis) {
      cut[axis] = axis == 0 ? count : lengths[axis];
      if (axis > 0) stride *= lengths[axis];
    }
    using Byte = std::conditional_t<std::is_same_v<Pointer, const void*>, const std::byte, std::byte>;
    BasicTensor part = *this;
    if (data != nullptr) part.data = static_cast<Byte*>(data) + first * stride * size_of(dtype);
    part.shape = Shape(std::span<const std::int64_t>(cut.data(), lengths.size()));
    return part;
  }
};

using Tensor = BasicTensor<void*>;
using ConstTensor = BasicTensor<const void*>;

}  // namespace vitrail
