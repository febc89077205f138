#pragma once
// `vitrail-eval --few-shot`: linear classifiers on the features of a few images per class (train/fewshot.hpp).

#include <cstdint>
#include <filesystem>
#include <vector>

#include "apps/options.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "train/evaluate.hpp"

namespace vitrail {

struct FewShotSettings {
  std::vector<std::int64_t> shots;  ///< images per class; empty: no few-shot evaluation
  std::vector<std::filesystem::path> train;
  std::vector<std::filesystem::path> test;  ///< one per path of `train`
  std::vector<std::int64_t> seeds = {0};    ///< one choice of training images each

  [[nodiscard]] bool wanted() const { return !shots.empty(); }
  /// Error (usage) unless all or nothing is given, in numbers that make sense.
  void check() const;
};

void add_few_shot_options(Options& options, FewShotSettings& settings);

/// A model, ready to be evaluated.
struct FewShotModel {
  const ModelConfig& config;
  const Layout& layout;
  Device& device;
  Ops& ops;
  const Ranks& ranks;
  const VitMoeParams& params;
};

/// Prints a table and returns it: accuracies of every data set at every number of shots and l2, and the l2 that all of
/// them share for each number of shots. Collective.
Json evaluate_few_shot(const FewShotSettings& settings, const FewShotModel& model, const Log& log);

}  // namespace vitrail
