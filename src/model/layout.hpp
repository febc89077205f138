#pragma once
// How a global batch is cut over passes and ranks. The cut never changes a result: see src/README.md, "The leaf".
//
//   batch = m * 2^k leaves of B images (m odd): m binary trees, summed in order.
//   A pass is p leaves per rank taken through the layers together. Pass j holds the W*p leaves from j*W*p, and of these
//   rank r the p from (j*W + r)*p. World W = EP x R: EP consecutive ranks share one copy of all experts.

#include <cstdint>

#include "model/activations.hpp"

namespace vitrail {

struct Layout {
  std::int64_t batch = 0;            ///< images of one optimisation step
  std::int64_t leaf_images = 0;      ///< B
  std::int64_t leaves_per_pass = 1;  ///< p: per rank
  std::int64_t ranks = 1;            ///< W
  std::int64_t rank = 0;
  std::int64_t expert_parallel = 1;  ///< EP

  /// Error (usage), with the nearest numbers that would do, unless: B divides the batch; leaf tokens are whole groups;
  /// EP divides W and E; W*p divides the leaves; and the leaves of a rank (p) and of an expert-parallel group (EP*p) in
  /// a pass are whole subtrees (powers of two that divide 2^k).
  void check(const ModelConfig& model) const;

  [[nodiscard]] std::int64_t leaves() const { return batch / leaf_images; }
  [[nodiscard]] std::int64_t tree_leaves() const;  ///< 2^k
  [[nodiscard]] std::int64_t passes() const { return leaves() / (ranks * leaves_per_pass); }
  [[nodiscard]] std::int64_t replicas() const { return ranks / expert_parallel; }    ///< R
  [[nodiscard]] std::int64_t expert_rank() const { return rank % expert_parallel; }  ///< place among the EP
  [[nodiscard]] std::int64_t replica() const { return rank / expert_parallel; }
  /// This rank's share of the experts: consecutive ones; none of a dense model.
  [[nodiscard]] std::int64_t experts_here(const ModelConfig& model) const {
    return model.moe_blocks.empty() ? 0 : model.experts / expert_parallel;
  }
  [[nodiscard]] std::int64_t first_expert(const ModelConfig& model) const {
    return expert_rank() * experts_here(model);
  }
  /// Images of this rank in pass j: first position in the step's batch, and their number.
  [[nodiscard]] std::int64_t first_image(std::int64_t pass) const {
    return (pass * ranks + rank) * leaves_per_pass * leaf_images;
  }
  [[nodiscard]] std::int64_t pass_images() const { return leaves_per_pass * leaf_images; }
  /// Where pass j of a step stands.
  [[nodiscard]] Randomness randomness(const ModelConfig& model, std::uint64_t seed, std::uint64_t step,
                                      std::int64_t pass) const {
    const std::int64_t first_source = (pass * ranks + replica() * expert_parallel) * leaves_per_pass;
    return {seed, step, first_image(pass) / leaf_images, first_source, first_expert(model)};
  }
  /// Routing groups of the whole step.
  [[nodiscard]] std::int64_t groups(const ModelConfig& model) const {
    return batch * model.tokens() / model.group_tokens();
  }
};

}  // namespace vitrail
