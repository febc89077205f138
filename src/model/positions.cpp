#include "model/positions.hpp"

#include <cmath>

namespace vitrail {

std::vector<double> sincos2d_positions(const ModelConfig& c) {
  const std::int64_t quarter = c.width / 4;
  const std::int64_t across = c.image_width / c.patch_columns;
  std::vector<double> all(static_cast<std::size_t>(c.tokens() * c.width), 0.0);
  double* token = all.data() + (c.tokens() - c.patches()) * c.width;
  for (std::int64_t patch = 0; patch < c.patches(); ++patch, token += c.width) {
    const auto x = static_cast<double>(patch % across);
    const auto y = static_cast<double>(patch / across);
    for (std::int64_t i = 0; i < quarter; ++i) {
      const double omega = std::pow(c.position_temperature, -static_cast<double>(i) / static_cast<double>(quarter - 1));
      token[i] = std::sin(x * omega);
      token[quarter + i] = std::cos(x * omega);
      token[2 * quarter + i] = std::sin(y * omega);
      token[3 * quarter + i] = std::cos(y * omega);
    }
  }
  return all;
}

}  // namespace vitrail
