#pragma once
// All verb cases, and how far a back end may be from the reference in each.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

inline std::vector<VerbCase> all_cases() {
  std::vector<VerbCase> cases = dense_cases();
  for (auto* more : {token_cases, routing_cases, soft_router_cases, training_cases, update_cases, elementwise_cases}) {
    for (VerbCase& one : more()) cases.push_back(std::move(one));
  }
  return cases;
}

// How far an f32 output may be from the reference's, relative to the largest entry of the reference's output (or to 1
// if that is smaller), by the beginning of a case's name. The sums are over at most some thousand terms.
// `bf16`: with inputs of products that are off by up to 1/256 each; 0 where nothing is rounded.
// `stored`: the same where a back end keeps `stored` tensors in bf16, of verbs that have no products.
struct Tolerance {
  std::string_view verbs;
  double f32;
  double bf16;
  double stored = 0.0;
  /// Of a back end that keeps them so; 0 where its bits are those of f32.
  [[nodiscard]] constexpr double rounding() const { return std::max(bf16, stored); }
};
inline constexpr Tolerance kTolerances[] = {
    {"linear", 2e-6, 1e-2},
    {"mlp", 4e-6, 2e-2},
    {"qkv", 2e-6, 1e-2},
    {"images", 0.0, 0.0, 4e-3},
    {"embed_tokens", 1e-6, 0.0, 1e-2},
    {"layernorm", 2e-6, 0.0, 2e-2},
    {"attention_1_2_50_50_4_16_sharp", 4e-6, 8e-2},  // scores of a hundred, off by up to a half
    {"attention", 4e-6, 2e-2},
    {"tanh_and_tokens", 3e-7, 0.0},
    {"router", 3e-6, 0.0},
    {"rows", 1e-6, 0.0, 1e-2},
    {"losses", 1e-6, 0.0},
    {"update", 5e-7, 0.0},
    {"mean_tokens", 1e-6, 0.0},
    {"mix_images", 3e-7, 0.0},
    {"dropout", 3e-7, 0.0, 1e-2},
    {"bf16", 3e-7, 0.0},
    {"running_average", 3e-7, 0.0},
    {"choice", 1e-6, 0.0},
    {"given", 1e-6, 0.0},
    {"normalized", 1e-6, 0.0},
    {"soft_router", 4e-6, 0.0},
    {"soft_mix", 4e-6, 1e-2},
    {"clip_scale", 1e-14, 0.0},  // in double
    {"halted", 0.0, 0.0},
    {"sgd", 5e-7, 0.0},
    {"adafactor", 5e-6, 0.0},
};
inline Tolerance tolerance_of(const std::string& name) {
  for (const Tolerance& tolerance : kTolerances) {
    if (name.starts_with(tolerance.verbs)) return tolerance;
  }
  ADD_FAILURE() << "no tolerance for " << name;
  return {};
}

}  // namespace vitrail::testing
