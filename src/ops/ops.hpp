#pragma once
// The numerical verbs: the table of contents. A back end implements every line of VITRAIL_VERBS; what a verb means
// stands beside its arguments in ops/layers.hpp, ops/routing.hpp and ops/training.hpp, and its specification is the
// plain code in ops/reference.
//
// ops.layernorm_forward({.x = x, .scale = scale, ...}) checks shapes and dtypes once for all back ends, then calls the
// back end. No verb allocates once a back end is sealed; none knows ranks. An Error of the back end names the verb, and
// the layer if that was marked.

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/activity.hpp"
#include "device/device.hpp"
#include "ops/layers.hpp"
#include "ops/routing.hpp"
#include "ops/training.hpp"

namespace vitrail {

// VERB(name, arguments)
#define VITRAIL_VERBS(VERB)                              \
  VERB(normalize_images, NormalizeImages)                \
  VERB(patches_forward, PatchesForward)                  \
  VERB(embed_tokens_forward, EmbedTokensForward)         \
  VERB(embed_tokens_backward, EmbedTokensBackward)       \
  VERB(layernorm_forward, LayernormForward)              \
  VERB(layernorm_backward, LayernormBackward)            \
  VERB(linear_forward, LinearForward)                    \
  VERB(linear_backward, LinearBackward)                  \
  VERB(mlp_forward, MlpForward)                          \
  VERB(mlp_backward, MlpBackward)                        \
  VERB(qkv_forward, QkvForward)                          \
  VERB(qkv_backward, QkvBackward)                        \
  VERB(attention_forward, AttentionForward)              \
  VERB(attention_backward, AttentionBackward)            \
  VERB(dropout, Dropout)                                 \
  VERB(take_token_forward, TakeTokenForward)             \
  VERB(take_token_backward, TakeTokenBackward)           \
  VERB(mean_tokens_forward, MeanTokensForward)           \
  VERB(mean_tokens_backward, MeanTokensBackward)         \
  VERB(tanh_forward, TanhForward)                        \
  VERB(tanh_backward, TanhBackward)                      \
  VERB(to_bf16, ToBf16)                                  \
  VERB(from_bf16, FromBf16)                              \
  VERB(route_top_k, RouteTopK)                           \
  VERB(route_as_given, RouteAsGiven)                     \
  VERB(route_experts_choice, RouteExpertsChoice)         \
  VERB(shuffle_experts, ShuffleExperts)                  \
  VERB(router_losses_forward, RouterLossesForward)       \
  VERB(router_backward, RouterBackward)                  \
  VERB(map_slots, MapSlots)                              \
  VERB(normalize_gates_forward, NormalizeGatesForward)   \
  VERB(normalize_gates_backward, NormalizeGatesBackward) \
  VERB(gather_rows_forward, GatherRowsForward)           \
  VERB(gather_rows_backward, GatherRowsBackward)         \
  VERB(combine_rows_forward, CombineRowsForward)         \
  VERB(combine_rows_backward, CombineRowsBackward)       \
  VERB(count_assignments, CountAssignments)              \
  VERB(soft_router_forward, SoftRouterForward)           \
  VERB(soft_router_backward, SoftRouterBackward)         \
  VERB(mix_tokens_forward, MixTokensForward)             \
  VERB(mix_tokens_backward, MixTokensBackward)           \
  VERB(mix_slots_forward, MixSlotsForward)               \
  VERB(mix_slots_backward, MixSlotsBackward)             \
  VERB(one_hot, OneHot)                                  \
  VERB(mix_images, MixImages)                            \
  VERB(softmax_cross_entropy, SoftmaxCrossEntropy)       \
  VERB(sigmoid_cross_entropy, SigmoidCrossEntropy)       \
  VERB(predict, Predict)                                 \
  VERB(random_normal, RandomNormal)                      \
  VERB(initial_values, InitialValues)                    \
  VERB(accumulate, Accumulate)                           \
  VERB(block_square_sums, BlockSquareSums)               \
  VERB(clip_scale, ClipScale)                            \
  VERB(adamw_step, AdamWStep)                            \
  VERB(sgd_step, SgdStep)                                \
  VERB(adafactor_step, AdafactorStep)                    \
  VERB(running_average, RunningAverage)                  \
  VERB(all_finite, AllFinite)

/// Of matrix products (linear layers, MLPs, attention, their gradients). bf16: the inputs of a product are rounded to
/// bfloat16, to nearest with ties to even, and its sums are f32; tensors marked `stored` are kept in bf16
/// (Ops::stored), everything else between products stays `real`. Attention rounds q, k, v and d out; its probabilities
/// and their gradients too where the machine multiplies bf16 and stores it, and heads have an even width.
enum class Precision : std::uint8_t { f32, bf16 };

class Ops {
 public:
  Ops() = default;
  Ops(const Ops&) = delete;
  Ops& operator=(const Ops&) = delete;
  virtual ~Ops() = default;

  /// "reference", "cpu", ...
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  /// The dtype of its `real` tensors.
  [[nodiscard]] virtual Dtype real() const noexcept = 0;
  /// f32: the inputs of products are not rounded.
  [[nodiscard]] virtual Precision precision() const noexcept { return Precision::f32; }
  /// The dtype that tensors marked `stored` should have: bf16 where the back end keeps what enters products in half the
  /// memory, else real().
  [[nodiscard]] virtual Dtype stored() const noexcept { return real(); }
  /// The dtype that the weights of products should have: bf16 where they are to be rounded once for a whole step, else
  /// real(): a back end that lays weights out anew for every product rounds them as it does so.
  [[nodiscard]] virtual Dtype stored_weights() const noexcept { return real(); }
  /// Whether verbs take an EarlyUpdate of a weight [in out] (ops/early_update.hpp).
  [[nodiscard]] virtual bool updates_early(std::int64_t /*in*/, std::int64_t /*out*/) const noexcept { return false; }
  /// From here on an allocation, or a primitive that was not made before, is an Error: all shapes of the run have been
  /// seen (train/step: Trainer::warm_up).
  virtual void seal() {}
  /// Scratch memory of its verbs, once it is sealed all that there will be.
  [[nodiscard]] virtual std::int64_t workspace_bytes() const noexcept { return 0; }

  /// Where verbs mark what is computed: one of its own at first, later that of the rank, which must outlive the verbs.
  /// Who calls verbs marks layers, steps and phases there.
  [[nodiscard]] Activity& activity() const noexcept { return *activity_; }
  void watch(Activity& activity) noexcept { activity_ = &activity; }

#define VITRAIL_FRONT(verb, Arguments) void verb(const Arguments& a);
  VITRAIL_VERBS(VITRAIL_FRONT)
#undef VITRAIL_FRONT

  // What a back end implements, and what decorators forward. Call the checked verbs above instead.
#define VITRAIL_BACK(verb, Arguments) virtual void run(const Arguments& a) = 0;
  VITRAIL_VERBS(VITRAIL_BACK)
#undef VITRAIL_BACK

 private:
  Activity unwatched_;
  Activity* activity_ = &unwatched_;
};

/// The plainest loops: the specification of every verb. `real` is f64 or c128 (derivatives by complex step).
std::unique_ptr<Ops> make_reference_ops(Dtype real = Dtype::f64);

/// f32, or bf16 with `stored` tensors in bf16: own packed matrix products and vector kernels (Highway); `threads`
/// threads per call.
std::unique_ptr<Ops> make_cpu_ops(int threads, Precision precision = Precision::f32);

/// f32 (never TF32), or bf16 with `stored` tensors in bf16: cuBLASLt for matrix products, own kernels for the rest, in
/// the queue of `device`, which must be of make_cuda_device and outlive it. Error (usage) when this build has no CUDA.
std::unique_ptr<Ops> make_cuda_ops(Device& device, Precision precision = Precision::f32);

}  // namespace vitrail
