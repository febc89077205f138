#pragma once
// Vector kernels of SGD and Adafactor; see ops/training.hpp for what they compute.

#include <cstdint>

namespace vitrail::cpu {

/// d = gradient * scale, brought into -clip .. clip.
struct GradientScale {
  float scale;
  float clip;  // infinity: none
};

/// What moves parameters once an update u is known: parameter -= learning_rate * (u + decay * parameter).
struct UpdateRun {
  const float* gradient;
  float* parameter;
  float* m;  // the trace of SGD, the momentum of Adafactor; nullptr: none
  std::int64_t n;
  GradientScale d;
  float momentum;  // rounded to bfloat16 when m is
  bool bf16;       // m is stored rounded and decays in bfloat16
  float decay, learning_rate;
  bool frozen;
};

/// u = d + momentum * m, m = u.
void sgd_run(const UpdateRun& a);
/// u = d * row * rows[i] / sqrt(columns[i]); m = momentum * m + (1 - momentum) * u, u = m. `rows` may be nullptr: ones.
void adafactor_run(const UpdateRun& a, const float* columns, const float* rows, float row, float one_minus_momentum);

/// statistic = decay_rate * statistic + (1 - decay_rate) * (mean of d^2 + epsilon).
struct StatisticRun {
  GradientScale d;
  float decay_rate, one_minus_decay_rate, epsilon;
};
constexpr std::int64_t kMostColumns = 512;
/// For columns 0 .. columns-1 (at most kMostColumns) of rows that lie `stride` apart: means over the rows.
void column_statistics(const StatisticRun& a, const float* gradient, std::int64_t rows, std::int64_t stride,
                       std::int64_t columns, float* statistics);
/// For one row of n numbers: their mean.
void row_statistic(const StatisticRun& a, const float* gradient, std::int64_t n, float* statistic);

/// The mean of n numbers.
float mean_of_run(const float* x, std::int64_t n);

}  // namespace vitrail::cpu
