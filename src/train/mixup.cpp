#include "train/mixup.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/philox.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

// log of a gamma variate of shape a >= 1 (Marsaglia and Tsang, "A simple method for generating gamma variables", 2000):
//   d = a - 1/3,  c = 1 / sqrt(9 d);  draw x normal and u uniform until
//   v = (1 + c x)^3 > 0 and log u < x^2 / 2 + d - d v + d log v;  the variate is d v
// For a < 1 the variate of a + 1 is multiplied by u^(1/a), u another uniform number. With small a that is 0 in any
// number format, so the logarithm is returned, times min(a, 1), lest it overflow: here a * log(d v) + log u.
//
// The words of attempt k for a variate are the four of the counter (index of the variate, step, mixup, layer k): two
// make x, one u, one the u of the power.
double scaled_log_gamma(double a, std::uint64_t seed, std::uint64_t step, std::uint64_t variate) {
  const double d = (a < 1 ? a + 1 : a) - 1.0 / 3.0;
  const double c = 1 / std::sqrt(9 * d);
  for (std::uint32_t attempt = 0;; ++attempt) {
    const Philox random(seed, Purpose::mixup, step, attempt);
    const double x = random.normal(4 * variate);
    const double v = std::pow(1 + c * x, 3);
    if (v <= 0 || std::log(random.uniform(4 * variate + 2)) >= x * x / 2 + d - d * v + d * std::log(v)) continue;
    const double log_gamma = std::log(d) + std::log(v);
    return a < 1 ? a * log_gamma + std::log(random.uniform(4 * variate + 3)) : log_gamma;
  }
}

}  // namespace

// w_j = g_j / sum of g, g_j = exp(s_j / min(c, 1)); the largest s is subtracted first, so that some g is 1.
std::vector<double> dirichlet(double concentration, std::int64_t m, std::uint64_t seed, std::uint64_t step,
                              std::int64_t index) {
  std::vector<double> weights;
  for (std::int64_t j = 0; j < m; ++j) {
    weights.push_back(scaled_log_gamma(concentration, seed, step, static_cast<std::uint64_t>(index * m + j)));
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  for (double& weight : weights) weight = std::exp((weight - largest) / std::min(concentration, 1.0));
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

void set_mixup_weights(std::vector<double> draws, Tensor weights) {
  const std::int64_t m = weights.shape[2];
  const std::int64_t count = std::ssize(draws) / m;
  const std::int64_t images = weights.shape[0] * weights.shape[1];
  std::vector<double> rows;
  for (std::int64_t draw = 0; draw < count; ++draw) {
    const auto first = draws.begin() + draw * m;
    std::sort(first, first + m, std::greater<>());
    for (std::int64_t image = 0; image < images / count; ++image) rows.insert(rows.end(), first, first + m);
  }
  from_doubles(rows, weights);
}

void draw_mixup(const Mixup& mixup, std::uint64_t seed, std::uint64_t step, std::int64_t first_leaf, Tensor weights) {
  const std::int64_t leaves = weights.shape[0], leaf_images = weights.shape[1];
  std::int64_t first = 0, count = 1;
  if (mixup.draw == MixupDraw::leaf) first = first_leaf, count = leaves;
  if (mixup.draw == MixupDraw::image) first = first_leaf * leaf_images, count = leaves * leaf_images;
  std::vector<double> draws;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::vector<double> one = dirichlet(mixup.concentration, mixup.images, seed, step, first + i);
    draws.insert(draws.end(), one.begin(), one.end());
  }
  set_mixup_weights(std::move(draws), weights);
}

}  // namespace vitrail
