#pragma once
// Leaves of a tensor, and f32 sums of two, for the tests that hold a call with many leaves against calls with one.

#include <span>
#include <vector>

#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {

/// Entries index .. index+count-1 of an axis: leaves of a tensor [leaves ...] (axis 0), experts of [leaves E ...] (1).
inline OwnedTensor part(const OwnedTensor& whole, int axis, std::int64_t index, std::int64_t count = 1) {
  std::vector<std::int64_t> lengths(whole.shape().lengths().begin(), whole.shape().lengths().end());
  std::int64_t outer = 1, inner = 1;
  for (int i = 0; i < axis; ++i) outer *= lengths[static_cast<std::size_t>(i)];
  for (int i = axis + 1; i < whole.shape().axes(); ++i) inner *= lengths[static_cast<std::size_t>(i)];
  const std::int64_t length = lengths[static_cast<std::size_t>(axis)];
  lengths[static_cast<std::size_t>(axis)] = count;
  OwnedTensor cut(whole.dtype(), Shape(std::span<const std::int64_t>(lengths)));
  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t i = 0; i < count * inner; ++i)
      cut.set(o * count * inner + i, whole.get((o * length + index) * inner + i));
  }
  return cut;
}

inline OwnedTensor sum(const OwnedTensor& a, const OwnedTensor& b) {
  OwnedTensor total = a;
  for (std::int64_t i = 0; i < a.elements(); ++i) total.as<float>()[i] = a.as<float>()[i] + b.as<float>()[i];
  return total;
}

}  // namespace vitrail::testing
