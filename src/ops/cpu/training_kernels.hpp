#pragma once
// Vector kernels of losses and the update; see ops/training.hpp for what they compute.

#include <cmath>
#include <cstdint>
#include <limits>

namespace vitrail::cpu {

/// One image. Returns the loss; dlogits may be nullptr.
float softmax_loss(const float* logits, const float* targets, float scale, float* dlogits, std::int64_t classes);
float sigmoid_loss(const float* logits, const float* targets, float scale, float* dlogits, std::int64_t classes);

/// sum of x^2 in double: 32 partial sums (element i belongs to sum i mod 32), then their tree. The same on every
/// instruction set.
double square_sum(const float* x, std::int64_t n);

/// Some rows of AdamW, of n elements each.
struct AdamWRun {
  const float* gradient;
  float* parameter;
  float* m;
  float* v;
  std::int64_t n;
  std::int64_t rows = 1;
  std::int64_t gradient_stride = 0, stride = 0;  // from row to row: of the gradient, and of all else
  float gradient_scale;
  float clip_absolute;  // infinity: none
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float correction1, correction2;  // 1 / (1 - beta^t)
  float epsilon, decay, learning_rate;
  bool frozen;

  /// The same from element `first` of parameter, m and v on.
  [[nodiscard]] AdamWRun at(std::int64_t first) const {
    AdamWRun there = *this;
    there.parameter += first;
    there.m += first;
    there.v += first;
    return there;
  }
};
void adamw_run(const AdamWRun& a);
/// What all weights of one update have in common, of an AdamWStep or an EarlyUpdate.
template <class Update>
AdamWRun adamw_constants(const Update& a) {
  const auto updates = static_cast<double>(a.updates);
  AdamWRun run{};
  run.clip_absolute = std::numeric_limits<float>::infinity();
  run.beta1 = static_cast<float>(a.beta1);
  run.one_minus_beta1 = static_cast<float>(1.0 - a.beta1);
  run.beta2 = static_cast<float>(a.beta2);
  run.one_minus_beta2 = static_cast<float>(1.0 - a.beta2);
  run.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(a.beta1, updates)));
  run.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(a.beta2, updates)));
  run.epsilon = static_cast<float>(a.epsilon);
  run.learning_rate = static_cast<float>(a.learning_rate);
  return run;
}

/// True when no element is NaN or infinite.
bool finite_run(const float* x, std::int64_t n);

}  // namespace vitrail::cpu
