#pragma once
// Vector kernels of losses and the update; see ops/training.hpp for what they compute.

#include <cstdint>

namespace vitrail::cpu {

/// One image. Returns the loss; dlogits may be nullptr.
float softmax_loss(const float* logits, const float* targets, float scale, float* dlogits, std::int64_t classes);
float sigmoid_loss(const float* logits, const float* targets, float scale, float* dlogits, std::int64_t classes);

/// sum of x^2 in double: 32 partial sums (element i belongs to sum i mod 32), then their tree. The same on every
/// instruction set.
double square_sum(const float* x, std::int64_t n);

/// One run of a block of AdamW.
struct AdamWRun {
  const float* gradient;
  float* parameter;
  float* m;
  float* v;
  std::int64_t n;
  float gradient_scale;
  float clip_absolute;  // infinity: none
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float correction1, correction2;  // 1 / (1 - beta^t)
  float epsilon, decay, learning_rate;
  bool frozen;
};
void adamw_run(const AdamWRun& a);

/// True when no element is NaN or infinite.
bool finite_run(const float* x, std::int64_t n);

}  // namespace vitrail::cpu
