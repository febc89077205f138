#pragma once
// Tensors of any floating-point dtype, read and written as doubles. For initial values, reports and tests.

#include <span>
#include <vector>

#include "device/arena.hpp"

namespace vitrail {

/// Writes values into a host tensor of f32, f64, c128 (imaginary part 0) or bf16, rounding once.
void from_doubles(std::span<const double> values, Tensor to);

/// The values of a host tensor of f32, f64, c128 (real part), bf16, i32, i64 or u8.
std::vector<double> to_doubles(ConstTensor from);

/// The same for a tensor of `device`, through a copy in host memory.
void from_doubles(std::span<const double> values, Device& device, Tensor to);
std::vector<double> to_doubles(Device& device, ConstTensor from);

/// The next tensor of an arena of `device`, with these values: [n]. A measuring arena takes its size alone.
template <class T>
Tensor allocate_with(Arena& arena, Device& device, const std::vector<T>& values) {
  const ConstTensor host(values.data(), {static_cast<std::int64_t>(values.size())}, dtype_of<T>);
  const Tensor tensor = arena.allocate(host.dtype, host.shape);
  if (tensor) device.copy(host, tensor);
  return tensor;
}

}  // namespace vitrail
