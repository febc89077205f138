#include "apps/tensor_statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace vitrail {

namespace {
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
}  // namespace

void TensorStatistics::add(std::span<const double> values) {
  for (const double value : values) {
    if (!std::isfinite(value)) {
      ++non_finite_;
      continue;
    }
    min_ = finite_ == 0 ? value : std::min(min_, value);
    max_ = finite_ == 0 ? value : std::max(max_, value);
    sum_ += value;
    squares_ += value * value;
    ++finite_;
  }
}

double TensorStatistics::norm() const noexcept { return finite_ == 0 ? kNone : std::sqrt(squares_); }
double TensorStatistics::mean() const noexcept { return finite_ == 0 ? kNone : sum_ / static_cast<double>(finite_); }
double TensorStatistics::min() const noexcept { return finite_ == 0 ? kNone : min_; }
double TensorStatistics::max() const noexcept { return finite_ == 0 ? kNone : max_; }

}  // namespace vitrail
