// Targets, losses and predictions.

#include <algorithm>

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

// log sig(a) = -log(1 + exp(-a)), written so that exp does not overflow
template <class T>
T log_sigmoid(T a) {
  return real_part(a) >= 0.0 ? -log1p(std::exp(-a)) : a - log1p(std::exp(a));
}

}  // namespace

// targets[i,c] = on if c is one of labels[i], else off
template <class T>
void one_hot(const OneHot& a) {
  const std::int64_t images = a.targets.shape[0], classes = a.targets.shape[1], labels = a.labels.shape[1];
  for (std::int64_t i = 0; i < images; ++i) {
    const std::int32_t* label = a.labels.as<std::int32_t>() + i * labels;
    for (std::int64_t c = 0; c < classes; ++c)
      a.targets.as<T>()[i * classes + c] = std::count(label, label + labels, c) > 0 ? a.on : a.off;
  }
}

// loss = sum over c of y_c (log_sum_exp(logits) - logits_c);  dlogits = scale (softmax(logits) sum(y) - y)
template <class T>
void softmax_cross_entropy(const SoftmaxCrossEntropy& a) {
  const std::int64_t images = a.logits.shape[0], classes = a.logits.shape[1];
  for (std::int64_t i = 0; i < images; ++i) {
    const T *logits = a.logits.as<T>() + i * classes, *y = a.targets.as<T>() + i * classes;
    T loss{}, sum_y{};
    const T lse = classes > 0 ? log_sum_exp(logits, classes) : T{};
    for (std::int64_t c = 0; c < classes; ++c) {
      loss += y[c] * (lse - logits[c]);
      sum_y += y[c];
    }
    a.loss.as<T>()[i] = loss;
    if (!a.dlogits) continue;
    for (std::int64_t c = 0; c < classes; ++c)
      a.dlogits.as<T>()[i * classes + c] = a.scale * (std::exp(logits[c] - lse) * sum_y - y[c]);
  }
}

// loss = -sum over c of y log sig(z) + (1 - y) log sig(-z);  dlogits = scale (sig(z) - y)
template <class T>
void sigmoid_cross_entropy(const SigmoidCrossEntropy& a) {
  const std::int64_t images = a.logits.shape[0], classes = a.logits.shape[1];
  for (std::int64_t i = 0; i < images; ++i) {
    T loss{};
    for (std::int64_t c = i * classes; c < (i + 1) * classes; ++c) {
      const T z = a.logits.as<T>()[c], y = a.targets.as<T>()[c];
      loss -= y * log_sigmoid(z) + (1.0 - y) * log_sigmoid(-z);
      if (a.dlogits) a.dlogits.as<T>()[c] = a.scale * (std::exp(log_sigmoid(z)) - y);
    }
    a.loss.as<T>()[i] = loss;
  }
}

// the first of the largest logits that are numbers; 0 if none is
template <class T>
void predict(const Predict& a) {
  const std::int64_t images = a.logits.shape[0], classes = a.logits.shape[1];
  for (std::int64_t i = 0; i < images; ++i) {
    const T* logits = a.logits.as<T>() + i * classes;
    std::int64_t best = -1;
    for (std::int64_t c = 0; c < classes; ++c) {
      if (std::isnan(real_part(logits[c]))) continue;
      if (best < 0 || real_part(logits[c]) > real_part(logits[best])) best = c;
    }
    a.predicted.as<std::int32_t>()[i] = static_cast<std::int32_t>(best < 0 ? 0 : best);
  }
}

VITRAIL_REFERENCE_VERB(one_hot, OneHot)
VITRAIL_REFERENCE_VERB(softmax_cross_entropy, SoftmaxCrossEntropy)
VITRAIL_REFERENCE_VERB(sigmoid_cross_entropy, SigmoidCrossEntropy)
VITRAIL_REFERENCE_VERB(predict, Predict)

}  // namespace vitrail::reference
