#pragma once
// A small model with memory of its own, for the tests of this room: random parameters and a random batch, the same
// numbers in every dtype and for every cut into leaves.

#include <algorithm>
#include <cmath>
#include <complex>
#include <memory>
#include <string>
#include <vector>

#include "base/philox.hpp"
#include "comm/communicator.hpp"
#include "device/arena.hpp"
#include "device/host_values.hpp"
#include "model/vit_moe.hpp"

namespace vitrail::testing {

/// Images of 6 x 8 pixels in patches of 3 x 4, so 5 tokens; 2 blocks, the second with 4 experts; groups of two images.
inline ModelConfig small_config() {
  ModelConfig c;
  c.image_height = 6;
  c.image_width = 8;
  c.channels = 2;
  c.patch_rows = 3;
  c.patch_columns = 4;
  c.width = 8;
  c.mlp_width = 12;
  c.heads = 2;
  c.blocks = 2;
  c.classes = 5;
  c.moe_blocks = {1};
  c.experts = 4;
  c.router.selected = 2;
  c.router.group_images = 2;
  c.router.capacity.multiple_of = 0;
  return c;
}

/// Normal numbers, rounded to f32: a function of (stream, index).
inline std::vector<double> random_values(std::int64_t count, std::uint32_t stream, double scale = 1.0) {
  const Philox random(7, Purpose::test, stream);
  std::vector<double> values;
  for (std::int64_t i = 0; i < count; ++i)
    values.push_back(static_cast<double>(static_cast<float>(scale * random.normal(static_cast<std::uint64_t>(i)))));
  return values;
}

/// One tensor per entry of a table.
class TableMemory {
 public:
  TableMemory(Device& device, Dtype real, const std::vector<ParameterSpec>& table) {
    Arena measured("test");
    for (const ParameterSpec& spec : table) measured.allocate(real, spec.shape);
    arena_ = std::make_unique<Arena>("test", device, measured.bytes());
    for (const ParameterSpec& spec : table) tensors.push_back(arena_->allocate(real, spec.shape));
  }
  std::vector<Tensor> tensors;

 private:
  std::unique_ptr<Arena> arena_;
};

class SmallModel {
 public:
  SmallModel(const ModelConfig& config_, Dtype real, std::int64_t leaves, std::int64_t leaf_images,
             bool backward = true)
      : config(config_),
        table(parameter_table(config_)),
        device(make_cpu_device()),
        ops(make_reference_ops(real)),
        self(make_self_communicator()),
        parameters(*device, real, table),
        gradients(*device, real, table) {
    lay_out({.leaves = leaves, .leaf_images = leaf_images, .expert_parallel = 1, .backward = backward});
    fill();
  }

  /// Lays the pass out, also another time: the batch must be filled then. `in_gradients`: in these where there is room.
  /// Returns the bytes beside them.
  std::int64_t lay_out(const PassShape& shape, bool in_gradients = false) {
    const Dtype real = ops->real();
    std::vector<SpareMemory> spare;
    if (in_gradients) spare = spare_memory(bind_params(config, table, gradients.tensors));
    Arena measured("test");
    (void)lay_out_activations(measured, *device, real, config, shape, spare);
    arena_ = std::make_unique<Arena>("test", *device, measured.bytes());
    acts = lay_out_activations(*arena_, *device, real, config, shape, spare);
    return arena_->bytes();
  }

  /// Forward, loss and auxiliary losses of `images_of_step` images; returns the part of this pass in the total loss.
  std::complex<double> total_loss(Mode mode = Mode::training) {
    vit_moe_forward({*ops, *self}, config, bind_params(config, table, parameters.tensors), mode, acts);
    vit_moe_loss(*ops, loss, image_scale(), acts.shape.backward, acts);
    std::complex<double> total = image_scale() * sum(acts.loss);
    for (const std::int64_t block : config.moe_blocks) {
      const MoeActivations& moe = acts.blocks[static_cast<std::size_t>(block)].moe;
      const RouterConfig& r = config.router;
      total += group_scale() * (r.importance_weight * sum(moe.importance) + r.load_weight * sum(moe.load) +
                                r.gshard_weight * sum(moe.gshard) + r.z_weight * sum(moe.z));
    }
    return total;
  }
  void backward() {
    VitMoeParams bound = bind_params(config, table, gradients.tensors);
    vit_moe_backward({*ops, *self}, config, bind_params(config, table, parameters.tensors), group_scale(), acts, bound);
  }
  [[nodiscard]] std::vector<double> gradient(std::size_t tensor) const { return to_doubles(gradients.tensors[tensor]); }

  [[nodiscard]] double image_scale() const { return 1.0 / static_cast<double>(images_of_step()); }
  [[nodiscard]] double group_scale() const {
    return static_cast<double>(config.group_tokens()) / static_cast<double>(images_of_step() * config.tokens());
  }
  [[nodiscard]] std::int64_t images_of_step() const {
    return step_images > 0 ? step_images : acts.shape.leaves * acts.shape.leaf_images;
  }
  /// The batch from image `first` on: images, targets and router noise.
  void fill_batch(std::int64_t first) {
    acts.random.first_leaf = acts.random.first_source_leaf = first / acts.shape.leaf_images;
    fill_part(acts.images, first * acts.images.elements() / acts.images.shape[0], 1);
    fill_part(acts.targets, first * config.classes, 2);
    std::vector<double> targets = to_doubles(acts.targets);
    for (double& y : targets) y = std::min(1.0, std::abs(y));
    from_doubles(targets, acts.targets);
    for (const std::int64_t block : config.moe_blocks) {
      const Tensor noise = acts.blocks[static_cast<std::size_t>(block)].moe.noise;
      fill_part(noise, first * config.tokens() * noise.shape[2], static_cast<std::uint32_t>(100 + block));
    }
  }

  ModelConfig config;
  Loss loss = Loss::softmax;
  std::int64_t step_images = 0;  ///< 0: this pass is the whole step
  std::vector<ParameterSpec> table;
  std::unique_ptr<Device> device;
  std::unique_ptr<Ops> ops;
  std::unique_ptr<Communicator> self;
  TableMemory parameters, gradients;
  Activations acts;

 private:
  static std::complex<double> sum(ConstTensor x) {
    std::complex<double> total = 0;
    for (std::int64_t i = 0; i < x.elements(); ++i)
      total += x.dtype == Dtype::c128 ? x.as<std::complex<double>>()[i] : x.as<double>()[i];
    return total;
  }
  static void fill_part(Tensor to, std::int64_t first, std::uint32_t stream) {
    const std::vector<double> all = random_values(first + to.elements(), stream);
    from_doubles(std::span(all).subspan(static_cast<std::size_t>(first)), to);
  }
  /// No tensor is zero or constant: every gradient then depends on every formula.
  void fill() {
    for (std::size_t i = 0; i < table.size(); ++i) {
      const bool scale = table[i].name.ends_with("/scale");
      const bool router = table[i].name.find("Router") != std::string::npos;
      std::vector<double> values =
          random_values(table[i].shape.elements(), static_cast<std::uint32_t>(1000 + i), router ? 1.0 : 0.3);
      for (double& x : values) x += scale ? 1.0 : 0.0;
      from_doubles(values, parameters.tensors[i]);
    }
    fill_batch(0);
  }

  std::unique_ptr<Arena> arena_;
};

}  // namespace vitrail::testing
