#pragma once
// What all evaluations of one job share: the parameters, read once, the images and the ranks.

#include <memory>
#include <optional>
#include <vector>

#include "base/log.hpp"
#include "data/shard.hpp"
#include "train/checkpoint.hpp"
#include "train/evaluate.hpp"
#include "train/product_weights.hpp"

namespace vitrail {

/// The parameters of a checkpoint, or their running average, experts shared out over the expert-parallel ranks. Error
/// (usage) when there is no average.
class LoadedModel {
 public:
  LoadedModel(const ModelConfig& config, const Layout& layout, Ops& ops, Device& device, const CheckpointReader& reader,
              bool average);
  VitMoeParams params;

 private:
  std::vector<ParameterSpec> table_;
  FlatLayout dense_;
  std::optional<FlatLayout> experts_;
  std::unique_ptr<Arena> arena_;
  std::optional<ProductWeights> weights_;
};

/// What is the same for every evaluation of this job.
struct Bench {
  const RunConfig& config;
  const Layout& layout;
  Device& device;
  Ops& ops;
  const Ranks& ranks;
  const VitMoeParams& params;
  Dataset& dataset;
};

/// All images of the data set, with `model`'s routing. `after_pass`, if given, sees every pass, with the routing of all
/// blocks. Collective.
Metrics evaluate(const Bench& bench, const ModelConfig& model, const AfterPass& after_pass = {});

/// Error (usage) unless the folder of a file that is to be written is there: told before the work, not after it.
void expect_folder_of(const std::filesystem::path& file);
/// On rank 0: replaces a file. Error (other) when it cannot be written.
void write_result(const Bench& bench, const std::filesystem::path& path, const std::string& content);

}  // namespace vitrail
