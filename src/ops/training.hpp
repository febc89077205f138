#pragma once
// Verbs of losses, random numbers and the update. Conventions as in ops/layers.hpp.

#include <cstdint>

#include "base/philox.hpp"
#include "device/tensor.hpp"

namespace vitrail {

/// targets[i, labels[i,l]] = on for all labels of the image, the others off. Labels outside 0 .. V-1 are none. Label
/// smoothing by a: on = 1 - a + a/V, off = a/V.
struct OneHot {
  ConstTensor labels;  // i32 [images labels]
  double on = 1.0;
  double off = 0.0;
  Tensor targets;  // real [images V]
  void check() const;
};

/// Mixup: y[i] = sum over j of weights[i,j] * x[(i + j) mod B], j ascending: an image is mixed with those that follow
/// it in its leaf. For images and for targets. [V-MoE]
struct MixImages {
  ConstTensor x;        // real [leaves B n]
  ConstTensor weights;  // real [leaves B m], 1 <= m <= B
  Tensor y;             // real [leaves B n]; not x
  void check() const;
};

/// loss[i] = -sum over c of targets[i,c] * log_softmax(logits[i])[c]; dlogits = scale * d loss[i] / d logits[i].
/// [V-MoE]
struct SoftmaxCrossEntropy {
  ConstTensor logits;   // real [images V]
  ConstTensor targets;  // real [images V]
  double scale{};       // 1 / images of the whole step
  Tensor loss;          // real [images]
  Tensor dlogits;       // real [images V] [optional]
  void check() const;
};
/// loss[i] = sum over c of -[y log sig(a) + (1-y) log sig(-a)]. [V-MoE]
struct SigmoidCrossEntropy {
  ConstTensor logits;   // real [images V]
  ConstTensor targets;  // real [images V]
  double scale{};
  Tensor loss;     // real [images]
  Tensor dlogits;  // real [images V] [optional]
  void check() const;
};

/// The class with the largest logit, ties to the lower one. (NaN never wins.)
struct Predict {
  ConstTensor logits;  // real [images V]
  Tensor predicted;    // i32 [images]
  void check() const;
};

/// y[i] = the standard normal number of index first_index + i (base/philox.hpp).
struct RandomNormal {
  std::uint64_t seed{};
  Purpose purpose = Purpose::router_noise;
  std::uint64_t step{};
  std::uint32_t layer{};
  std::uint64_t first_index{};
  Tensor y;  // real [n]
  void check() const;
};

/// Initial values of parameters: y[c,i] = scale * number first_index + i of the parameter tensor, the same for every c.
/// A number is a function of (seed, tensor, index) by base/philox.hpp, whose purpose is `initialisation`, layer
/// `tensor`:
///   one               1
///   uniform           2 u - 1, u uniform in (0, 1)
///   normal            the standard normal number
///   truncated_normal  that of the first of the steps 0, 1, 2, ... in which it lies in [-2, 2]
struct InitialValues {
  enum class Number : std::uint8_t { one, uniform, normal, truncated_normal };
  Number number = Number::one;
  double scale = 1;
  std::uint64_t seed{};
  std::uint32_t tensor{};
  std::uint64_t first_index{};
  Tensor y;  // real [copies n]
  void check() const;

  static constexpr double kTruncatedAt = 2;
};

/// y = y + x: one node of a summation tree; y holds the earlier leaves.
struct Accumulate {
  ConstTensor x;  // real [n]
  Tensor y;       // real [n]
  void check() const;
};

/// sums[b] = sum of x[i]^2 over block b in double, in an order that depends on the block alone.
struct BlockSquareSums {
  ConstTensor x;            // real [n]
  ConstTensor block_begin;  // i64 [blocks_plus_1]: block b is x[block_begin[b]] .. x[block_begin[b+1]-1]
  Tensor sums;              // f64 [blocks]
  void check() const;
};

/// The factor of all gradients from the sums of squares of their blocks, whoever's these are, and whether the update
/// may be done at all.
///   norm = sqrt(sum over i of sums[order[i]] * weights[i]), in an order that depends on n alone (cpu: i ascending)
///   scale = clip_norm / norm if clip_norm is positive and norm >= clip_norm, else 1
///   halt = 1 if norm or any of `sums`, in `order` or not, is not finite; else it stays what it was
struct ClipScale {
  ConstTensor sums;      // f64 [places]
  ConstTensor order;     // i64 [n]: places
  ConstTensor weights;   // f64 [n]: squares of the gradients' multipliers
  double clip_norm = 0;  // 0: none
  Tensor norm;           // f64 [1]
  Tensor scale;          // f64 [1]
  Tensor halt;           // i32 [1]
  void check() const;
};

/// AdamW as optax does it. [V-MoE]
///   d = gradient * multiplier[b] * gradient_scale, clamped to +-clip_absolute if that is positive
///   m = b1 m + (1-b1) d;  v = b2 v + (1-b2) d^2
///   u = (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + epsilon) + decay[b] * parameter;  parameter -= learning_rate * u
/// Block b of the parameters has a weight decay and a gradient multiplier of its own; a frozen block keeps its
/// parameters (its moments move all the same). Nothing at all is written when `halt` is not 0. With `bf16_moment`, m is
/// stored rounded to bfloat16 and decays in bfloat16, as optax's mu_dtype does it: bf16(bf16(b1) m) + (1-b1) d enters u
/// unrounded.
struct AdamWStep {
  ConstTensor gradient;          // real [n]
  ConstTensor block_begin;       // i64 [blocks_plus_1]
  ConstTensor decay;             // f64 [blocks]
  ConstTensor multiplier;        // f64 [blocks]
  ConstTensor frozen;            // u8 [blocks]
  ConstTensor gradient_scale{};  // f64 [1] [optional]: left out, 1; ClipScale::scale
  ConstTensor halt{};            // i32 [1] [optional]: left out, 0; ClipScale::halt
  double clip_absolute = 0;      // 0: none
  double learning_rate{};
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  std::int64_t updates = 1;  // t: this update included
  bool bf16_moment = false;
  Tensor parameter;  // real [n]
  Tensor m;          // real [n]
  Tensor v;          // real [n]
  void check() const;
};

/// Stochastic gradient descent with momentum as optax does it; d, decay, freezing and halt as in AdamWStep. [V-MoE]
///   trace = d + momentum * trace;  parameter -= learning_rate * (trace + decay[b] * parameter)
/// With `bf16_trace` the trace is stored rounded to bfloat16: bf16(bf16(momentum) trace) + d enters the update
/// unrounded.
struct SgdStep {
  ConstTensor gradient;          // real [n]
  ConstTensor block_begin;       // i64 [blocks_plus_1]
  ConstTensor decay;             // f64 [blocks]
  ConstTensor multiplier;        // f64 [blocks]
  ConstTensor frozen;            // u8 [blocks]
  ConstTensor gradient_scale{};  // f64 [1] [optional]
  ConstTensor halt{};            // i32 [1] [optional]
  double clip_absolute = 0;      // 0: none
  double learning_rate{};
  double momentum = 0;
  bool bf16_trace = false;
  Tensor parameter;  // real [n]
  Tensor trace;      // real [n] [optional]: left out, there is no momentum
  void check() const;
};

/// Adafactor as big_vision does it: no update clipping, no relative step, momentum on the update. [V-MoE]
/// The slice is a list of units, each a whole matrix or more: unit i begins at unit_begin[i] and has the elements
/// [a x b y c] of factors[i] = (a, x, b, y, c), factored over x and y; (n, 0, 0, 0, 0) is a unit of n elements that is
/// not factored. What lies between units (alignment) is not touched. The statistics of unit i begin at
/// statistics_begin[i]: first over_x [a b y c], the running mean of d2 over x, then over_y [a x b c], that over y; or v
/// [n].
///   d and halt as in AdamWStep;  d2 = d^2 + epsilon;  statistic = decay_rate * statistic + (1 - decay_rate) * mean of
///   d2 u = d * (over_x / mean over y of over_x)^-1/2 * over_y^-1/2,   or u = d * v^-1/2 m = momentum * m + (1 -
///   momentum) * u, u = m;   parameter -= learning_rate * (u + decay[i] * parameter)
/// (The original divides the statistic of the larger axis by its mean; in exact arithmetic that is the same.)
/// With `bf16_momentum` m is stored rounded and decays in bfloat16: bf16(bf16(momentum) m) + (1 - momentum) u enters
/// unrounded.
struct AdafactorStep {
  ConstTensor gradient;          // real [n]
  ConstTensor unit_begin;        // i64 [units]
  ConstTensor factors;           // i64 [units 5]
  ConstTensor statistics_begin;  // i64 [units]
  ConstTensor decay;             // f64 [units]
  ConstTensor multiplier;        // f64 [units]
  ConstTensor frozen;            // u8 [units]
  ConstTensor gradient_scale{};  // f64 [1] [optional]
  ConstTensor halt{};            // i32 [1] [optional]
  double clip_absolute = 0;      // 0: none
  double learning_rate{};
  double decay_rate{};  // of this update: min(0.999, 1 - t^-0.8), t counts it
  double epsilon = 1e-30;
  double momentum = 0.9;
  bool bf16_momentum = false;
  Tensor parameter;   // real [n]
  Tensor statistics;  // real [statistics]
  Tensor m;           // real [n] [optional]: left out, there is no momentum
  void check() const;
};

/// y = decay * y + (1 - decay) * x: a running average of weights.
struct RunningAverage {
  ConstTensor x;       // real [n]
  ConstTensor halt{};  // i32 [1] [optional]: nothing is written when it is not 0
  double decay{};
  Tensor y;  // real [n]
  void check() const;
};

/// The factor on the gradients, and whether nothing is to be written, of an update whose tensors are host memory.
template <class Step>
double gradient_scale_of(const Step& a) {
  return a.gradient_scale ? *a.gradient_scale.template as<double>() : 1.0;
}
template <class Step>
bool halted(const Step& a) {
  return a.halt && *a.halt.template as<std::int32_t>() != 0;
}

/// finite[0] = 1 when every element is finite, else 0.
struct AllFinite {
  ConstTensor x;  // real [n]
  Tensor finite;  // i32 [1]
  void check() const;
};

}  // namespace vitrail
