#pragma once
// What one looks at first in a tensor of numbers.

#include <cstdint>
#include <span>

namespace vitrail {

/// Over the finite elements, gathered stretch by stretch, summed in their order. NaN where there are none.
class TensorStatistics {
 public:
  void add(std::span<const double> values);

  [[nodiscard]] std::int64_t elements() const noexcept { return finite_ + non_finite_; }
  [[nodiscard]] std::int64_t non_finite() const noexcept { return non_finite_; }
  [[nodiscard]] double norm() const noexcept;  ///< square root of the sum of squares
  [[nodiscard]] double mean() const noexcept;
  [[nodiscard]] double min() const noexcept;
  [[nodiscard]] double max() const noexcept;

 private:
  std::int64_t finite_ = 0;
  std::int64_t non_finite_ = 0;
  double sum_ = 0;
  double squares_ = 0;
  double min_ = 0;
  double max_ = 0;
};

}  // namespace vitrail
