#pragma once
// vitrail-checkpoint diff. How two checkpoints differ, tensor by tensor.

#include <cstdint>

#include "device/tensor.hpp"

namespace vitrail {

/// The command, whose words follow argv[0]. Returns the exit code; an Error is the caller's to print.
int checkpoint_diff(int argc, char** argv);

/// How the elements of one tensor differ, gathered stretch by stretch.
class TensorDifference {
 public:
  /// The next elements of both, as many of either, in host memory. Of the same dtype they are compared bit by bit, so
  /// that 0 and -0 differ; of two dtypes by their values.
  void add(ConstTensor a, ConstTensor b);

  [[nodiscard]] std::int64_t elements() const noexcept { return elements_; }
  [[nodiscard]] std::int64_t differing() const noexcept { return differing_; }
  /// max |a - b|; infinite when somewhere one is not finite and the other is something else.
  [[nodiscard]] double max_abs() const noexcept { return max_abs_; }
  /// max |a - b| / max |a|, the latter over what is finite; 0 when both are.
  [[nodiscard]] double relative() const noexcept;
  /// Number of the first element that differs; -1: none does.
  [[nodiscard]] std::int64_t first() const noexcept { return first_; }

 private:
  std::int64_t elements_ = 0;
  std::int64_t differing_ = 0;
  std::int64_t first_ = -1;
  double max_abs_ = 0;
  double largest_ = 0;
};

}  // namespace vitrail
