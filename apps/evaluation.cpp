#include "apps/evaluation.hpp"

#include "base/file.hpp"
#include "train/state_checkpoint.hpp"

namespace vitrail {

LoadedModel::LoadedModel(const ModelConfig& config, const Layout& layout, Ops& ops, Device& device,
                         const CheckpointReader& reader, bool average)
    : table_(parameter_table(config)), dense_(table_, 0, 0, 1) {
  const bool sparse = !config.moe_blocks.empty();
  const std::int64_t first = layout.first_expert(config);
  if (sparse) experts_.emplace(table_, first, layout.experts_here(config), 1);
  std::vector<Tensor> tensors;
  const auto lay_out = [&](Arena& arena) {
    std::vector<ProductWeights::Share> shares{{dense_, arena.allocate(ops.real(), {dense_.elements()})}};
    if (sparse) shares.push_back({*experts_, arena.allocate(ops.real(), {experts_->elements()})});
    tensors.clear();
    for (const ProductWeights::Share& share : shares) share.layout.cut(table_, share.values, tensors);
    weights_.emplace(arena, ops, table_, shares);
  };
  Arena measured("parameters");
  lay_out(measured);
  arena_ = std::make_unique<Arena>("parameters", device, measured.bytes());
  lay_out(*arena_);
  VITRAIL_EXPECT(!average || reader.has("average/" + table_.front().name), ExitCode::usage,
                 text("--average: ", reader.path().string(), " holds no running average of the weights"),
                 "it was trained with --average-decay 0", "Leave --average out");
  restore_parameters(table_, first, tensors, reader, average ? "average" : "parameters");
  weights_->refresh(ops);
  params = bind_params(config, table_, weights_->tensors());
}

Metrics evaluate(const Bench& bench, const ModelConfig& model, const AfterPass& after_pass) {
  Evaluator evaluator(model, bench.layout, bench.device, bench.ops, bench.dataset.labels_per_image(),
                      after_pass != nullptr);
  std::vector<std::int64_t> numbers;
  const auto fetch = [&](std::int64_t first, std::int64_t count, Activations& acts) {
    numbers.clear();
    for (std::int64_t i = 0; i < count; ++i) numbers.push_back(first + i);
    bench.dataset.read(numbers, acts.raw_images.as<std::uint8_t>(), acts.labels.as<std::int32_t>());
  };
  return evaluator.run(bench.params, bench.ranks, make_loss(bench.config), bench.dataset.images(), fetch, after_pass);
}

void expect_folder_of(const std::filesystem::path& file) {
  const std::filesystem::path folder = file.parent_path();
  VITRAIL_EXPECT(folder.empty() || std::filesystem::is_directory(folder), ExitCode::usage,
                 text("'", file.string(), "' cannot be written"), text("'", folder.string(), "' is no folder"),
                 "Make it first");
}

void write_result(const Bench& bench, const std::filesystem::path& path, const std::string& content) {
  if (bench.ranks.world.rank() == 0) write_file_atomically(path, content, ExitCode::other);
}

}  // namespace vitrail
