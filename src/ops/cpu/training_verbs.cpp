// Losses, predictions and the update.

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/bf16.hpp"
#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/training_kernels.hpp"

namespace vitrail::cpu {

namespace {
constexpr std::int64_t kElements = 1 << 14;  // of a unit of work

/// body(block) for every block of an update. A thread takes many that follow each other: memory is read in long
/// streams, and where it is touched for the first time no two threads clear the same huge page.
template <class Body>
void for_each_block(int threads, std::int64_t blocks, const Body& body) {
  constexpr std::int64_t kMostBlocks = 128;
  const std::int64_t together = std::clamp<std::int64_t>(blocks / (std::int64_t{8} * threads), 1, kMostBlocks);
  for_each_piece(threads, blocks, together, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) body(block);
  });
}

}  // namespace

void CpuOps::run(const OneHot& a) {
  const std::int64_t classes = a.targets.shape[1];
  const std::int64_t labels = a.labels.shape[1];
  const auto on = static_cast<float>(a.on);
  const auto off = static_cast<float>(a.off);
  for_each_unit(threads_, a.targets.shape[0], [&](std::int64_t image, int) {
    float* const targets = a.targets.as<float>() + image * classes;
    std::fill_n(targets, classes, off);
    for (std::int64_t i = 0; i < labels; ++i) {
      const std::int32_t label = a.labels.as<std::int32_t>()[image * labels + i];
      if (label >= 0 && label < classes) targets[label] = on;
    }
  });
}

void CpuOps::run(const SoftmaxCrossEntropy& a) {
  const std::int64_t classes = a.logits.shape[1];
  for_each_unit(threads_, a.logits.shape[0], [&](std::int64_t image, int) {
    const std::int64_t first = image * classes;
    a.loss.as<float>()[image] =
        softmax_loss(a.logits.as<float>() + first, a.targets.as<float>() + first, static_cast<float>(a.scale),
                     a.dlogits ? a.dlogits.as<float>() + first : nullptr, classes);
  });
}

void CpuOps::run(const SigmoidCrossEntropy& a) {
  const std::int64_t classes = a.logits.shape[1];
  for_each_unit(threads_, a.logits.shape[0], [&](std::int64_t image, int) {
    const std::int64_t first = image * classes;
    a.loss.as<float>()[image] =
        sigmoid_loss(a.logits.as<float>() + first, a.targets.as<float>() + first, static_cast<float>(a.scale),
                     a.dlogits ? a.dlogits.as<float>() + first : nullptr, classes);
  });
}

void CpuOps::run(const Predict& a) {
  const std::int64_t classes = a.logits.shape[1];
  for_each_unit(threads_, a.logits.shape[0], [&](std::int64_t image, int) {
    const float* const logits = a.logits.as<float>() + image * classes;
    std::int64_t best = -1;
    for (std::int64_t c = 0; c < classes; ++c) {
      if (!std::isnan(logits[c]) && (best < 0 || logits[c] > logits[best])) best = c;
    }
    a.predicted.as<std::int32_t>()[image] = static_cast<std::int32_t>(std::max<std::int64_t>(best, 0));
  });
}

void CpuOps::run(const Accumulate& a) {
  for_each_piece(threads_, a.y.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    add_into(a.x.as<float>() + begin, a.y.as<float>() + begin, end - begin);
  });
}

void CpuOps::run(const BlockSquareSums& a) {
  const std::int64_t* const begin = a.block_begin.as<std::int64_t>();
  for_each_block(threads_, a.sums.elements(), [&](std::int64_t block) {
    a.sums.as<double>()[block] = square_sum(a.x.as<float>() + begin[block], begin[block + 1] - begin[block]);
  });
}

// A few numbers per million parameters: one thread, in the order of the reference.
void CpuOps::run(const ClipScale& a) {
  const double* const sums = a.sums.as<double>();
  const std::int64_t* const order = a.order.as<std::int64_t>();
  const double* const weights = a.weights.as<double>();
  double squares = 0.0;
  for (std::int64_t i = 0; i < a.order.elements(); ++i) squares += sums[order[i]] * weights[i];
  const double norm = std::sqrt(squares);
  const bool finite =
      std::isfinite(norm) && std::all_of(sums, sums + a.sums.elements(), [](double sum) { return std::isfinite(sum); });
  *a.norm.as<double>() = norm;
  *a.scale.as<double>() = a.clip_norm > 0.0 && norm >= a.clip_norm ? a.clip_norm / norm : 1.0;
  if (!finite) *a.halt.as<std::int32_t>() = 1;
}

void CpuOps::run(const AdamWStep& a) {
  if (halted(a)) return;
  const std::int64_t* const begin = a.block_begin.as<std::int64_t>();
  AdamWRun common = adamw_constants(a);
  if (a.clip_absolute > 0.0) common.clip_absolute = static_cast<float>(a.clip_absolute);
  if (a.bf16_moment) common.beta1 = 1.0F;
  for_each_block(threads_, a.decay.elements(), [&](std::int64_t block) {
    AdamWRun run = common;
    run.gradient = a.gradient.as<float>() + begin[block];
    run.parameter = a.parameter.as<float>() + begin[block];
    run.m = a.m.as<float>() + begin[block];
    run.v = a.v.as<float>() + begin[block];
    run.n = begin[block + 1] - begin[block];
    run.gradient_scale = static_cast<float>(a.multiplier.as<double>()[block] * gradient_scale_of(a));
    run.decay = static_cast<float>(a.decay.as<double>()[block]);
    run.frozen = a.frozen.as<std::uint8_t>()[block] != 0;
    // A bf16 moment decays before the run, which then adds to it, and is rounded afterwards.
    const auto decayed = static_cast<float>(round_to_bf16(a.beta1));
    for (std::int64_t i = 0; i < run.n && a.bf16_moment; ++i)
      run.m[i] = static_cast<float>(round_to_bf16(decayed * run.m[i]));
    adamw_run(run);
    for (std::int64_t i = 0; i < run.n && a.bf16_moment; ++i) run.m[i] = static_cast<float>(round_to_bf16(run.m[i]));
  });
}

void CpuOps::run(const RunningAverage& a) {
  if (halted(a)) return;
  const auto decay = static_cast<float>(a.decay);
  const auto rest = static_cast<float>(1.0 - a.decay);
  for_each_piece(threads_, a.y.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    scale_and_add(decay, rest, a.x.as<float>() + begin, a.y.as<float>() + begin, end - begin);
  });
}

void CpuOps::run(const AllFinite& a) {
  std::atomic<bool> finite{true};
  for_each_piece(threads_, a.x.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    if (!finite_run(a.x.as<float>() + begin, end - begin)) finite = false;
  });
  a.finite.as<std::int32_t>()[0] = finite ? 1 : 0;
}

}  // namespace vitrail::cpu
