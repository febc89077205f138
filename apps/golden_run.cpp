#include "apps/golden_run.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "device/host_values.hpp"

namespace vitrail {

namespace {

std::int64_t experts_of(const std::vector<ParameterSpec>& table) {
  for (const ParameterSpec& spec : table) {
    if (spec.expert) return spec.shape[0];
  }
  return 1;
}

/// Sums of squares of the blocks of one flat array, put to the places of their tensors.
void add_square_sums(Ops& ops, Device& device, const FlatLayout& layout, Tensor flat, std::vector<double>& by_tensor) {
  const auto blocks = static_cast<std::int64_t>(layout.blocks().size());
  if (blocks == 0) return;
  std::vector<std::int64_t> begin;
  for (const FlatBlock& block : layout.blocks()) begin.push_back(block.begin);
  begin.push_back(flat.elements());
  constexpr std::int64_t kAlignment = 64;
  Arena arena("golden norm", device, (2 * blocks + 1) * 8 + 2 * kAlignment);
  const Tensor block_begin = arena.allocate(Dtype::i64, {blocks + 1});
  const Tensor block_sums = arena.allocate(Dtype::f64, {blocks});
  device.copy(ConstTensor(begin.data(), {blocks + 1}, Dtype::i64), block_begin);
  ops.block_square_sums({.x = flat, .block_begin = block_begin, .sums = block_sums});
  const std::vector<double> sums = to_doubles(device, block_sums);
  for (std::size_t i = 0; i < sums.size(); ++i) by_tensor[layout.blocks()[i].tensor] += sums[i];
}

}  // namespace

FlatParameters::FlatParameters(Device& device, Dtype real, const std::vector<ParameterSpec>& table)
    : device_(device), dense_layout_(table, 0, 0, 1), expert_layout_(table, 0, experts_of(table), 1) {
  const auto lay_out = [&](Arena& arena) {
    dense_ = arena.allocate(real, {dense_layout_.elements()});
    expert_ = arena.allocate(real, {expert_layout_.elements()});
  };
  Arena measured("golden parameters");
  lay_out(measured);
  arena_ = std::make_unique<Arena>("golden parameters", device, measured.bytes());
  lay_out(*arena_);
  dense_layout_.cut(table, dense_, tensors_);
  expert_layout_.cut(table, expert_, tensors_);
}

double FlatParameters::norm(Ops& ops) const {
  std::vector<double> by_tensor(tensors_.size());
  add_square_sums(ops, device_, dense_layout_, dense_, by_tensor);
  add_square_sums(ops, device_, expert_layout_, expert_, by_tensor);
  return std::sqrt(std::accumulate(by_tensor.begin(), by_tensor.end(), 0.0));
}

void read_parameters(const GoldenFile& file, const std::string& group, const std::vector<ParameterSpec>& table,
                     const FlatParameters& parameters) {
  std::set<std::string> known;
  for (std::size_t i = 0; i < table.size(); ++i) {
    file.read(group + "/" + table[i].name, parameters.device(), parameters.tensors()[i]);
    known.insert(table[i].name);
  }
  for (const std::string& name : file.h5().datasets_below(group)) {
    if (!known.contains(name)) throw Unsupported(text("parameter ", group, "/", name));
  }
}

GoldenPass::GoldenPass(const GoldenBackend& backend, const ModelConfig& config, std::int64_t images,
                       const std::vector<ParameterSpec>& table, const FlatParameters& parameters)
    : ops_(backend.ops),
      device_(backend.device),
      config_(config),
      table_(table),
      self_(make_self_communicator(&backend.device)) {
  if (!config.moe_blocks.empty() && images * config.tokens() % config.group_tokens() != 0) {
    throw Unsupported(text(images, " images of ", config.tokens(), " tokens in groups of ", config.group_tokens()));
  }
  // With `backward` every block keeps its activations, in evaluation too: the files show them all.
  const PassShape shape{.leaves = 1, .leaf_images = images, .expert_parallel = 1, .backward = true};
  std::vector<ProductWeights::Share> shares{{parameters.dense_layout(), parameters.dense()}};
  if (parameters.expert().elements() > 0) shares.push_back({parameters.expert_layout(), parameters.expert()});
  const auto lay_out = [&](Arena& arena) {
    acts_ = lay_out_activations(arena, ops_, config, shape);
    weights_.emplace(arena, ops_, table, shares);
  };
  Arena measured("golden pass");
  lay_out(measured);
  arena_ = std::make_unique<Arena>("golden pass", backend.device, measured.bytes());
  lay_out(*arena_);
}

void GoldenPass::forward(Mode mode, Loss loss, double image_scale) {
  weights_->refresh(ops_);
  const VitMoeParams bound = bind_params(config_, table_, weights_->tensors());
  vit_moe_forward({ops_, *self_}, config_, bound, mode, acts_);
  vit_moe_loss(ops_, loss, image_scale, mode == Mode::training, acts_);
}

void GoldenPass::backward(double group_scale, const FlatParameters& gradients) {
  const VitMoeParams bound = bind_params(config_, table_, weights_->tensors());
  VitMoeParams bound_gradients = bind_params(config_, table_, gradients.tensors());
  vit_moe_backward({ops_, *self_}, config_, bound, group_scale, acts_, bound_gradients);
}

std::vector<double> GoldenPass::values(ConstTensor tensor) const { return to_doubles(device_, tensor); }

double GoldenPass::mean_loss() const { return mean_of(values(acts_.loss)); }

std::vector<double> GoldenPass::auxiliary_loss(std::int64_t block, Mode mode) const {
  const MoeActivations& moe = acts_.blocks[static_cast<std::size_t>(block)].moe;
  const std::vector<double> importance = values(moe.importance);
  const std::vector<double> load = values(moe.load);
  const std::vector<double> gshard = values(moe.gshard);
  const std::vector<double> z = values(moe.z);
  const double load_weight = mode == Mode::training && noisy() ? config_.router.load_weight : 0.0;
  std::vector<double> weighted(importance.size());
  for (std::size_t g = 0; g < weighted.size(); ++g) {
    weighted[g] = config_.router.gshard_weight * gshard[g] + config_.router.importance_weight * importance[g] +
                  load_weight * load[g] + config_.router.z_weight * z[g];
  }
  return weighted;
}

double GoldenPass::auxiliary_loss(Mode mode) const {
  double sum = 0;
  for (const std::int64_t block : config_.moe_blocks) sum += mean_of(auxiliary_loss(block, mode));
  return sum;
}

std::string block_name(std::int64_t block) { return "encoderblock_" + std::to_string(block); }

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace vitrail
