#pragma once
// A training run of one rank on a few images of noise, on any device.

#include <functional>
#include <memory>
#include <vector>

#include "base/philox.hpp"
#include "device/host_values.hpp"
#include "train/presets.hpp"
#include "train/step.hpp"

namespace vitrail::testing {

inline constexpr std::int64_t kClasses = 10, kLeafImages = 8;

inline RunConfig small_run_config() {
  RunConfig config = preset("fmnist");
  config.model.width = 16;
  config.model.mlp_width = 32;
  config.model.heads = 2;
  config.model.experts = 4;
  config.batch = 4 * kLeafImages;
  config.leaf_images = kLeafImages;
  config.warmup = 0;
  return config;
}

inline RunConfig resolved(RunConfig config) {
  resolve(config);
  return config;
}

/// Image i of the batch has the labels i mod 10 and, with two, i+1 mod 10; every fifth has none.
class SmallRun {
 public:
  using MakeOps = std::function<std::unique_ptr<Ops>(Device&)>;

  explicit SmallRun(
      const RunConfig& config, std::int64_t labels_per_image = 1, std::unique_ptr<Device> device = make_cpu_device(),
      const MakeOps& make_ops = [](Device&) { return make_reference_ops(); })
      : device_(std::move(device)),
        ops_(make_ops(*device_)),
        state_(config, *device_, *ops_, *world_, labels_per_image),
        trainer_(state_, 10) {
    trainer_.warm_up();
  }
  StepReport step() {
    start_step();
    return finish_step();
  }
  void start_step() {
    std::int64_t pass = 0;
    trainer_.start_step([&](Tensor images, Tensor labels) {
      if (before_data) before_data();
      fill(state_.layout.first_image(pass++), images, labels);
    });
  }
  StepReport finish_step() { return trainer_.finish_step(); }

  [[nodiscard]] const Activity& activity() const { return ops_->activity(); }
  std::function<void()> before_data;  ///< called before images are given

  [[nodiscard]] const Activations& acts() const { return state_.acts; }
  [[nodiscard]] std::int64_t steps() const { return state_.step; }
  /// All parameters, and the state of the optimizer of the dense ones.
  [[nodiscard]] std::vector<double> values() const {
    std::vector<double> all;
    const auto add = [&](const Tensor& tensor) {
      for (const double value : to_doubles(*device_, tensor)) all.push_back(value);
    };
    for (const Tensor& tensor : state_.parameters) add(tensor);
    for (const StatePiece& piece : state_.dense->optimizer.state()) add(piece.data);
    return all;
  }
  /// Gives the first bias of the embedding another value; returns the old one.
  double exchange_bias(double value) {
    const Tensor bias = state_.params.embedding.b.view({state_.params.embedding.b.elements()}).slice(0, 1);
    const double before = to_doubles(*device_, bias).front();
    from_doubles(std::vector<double>{value}, *device_, bias);
    return before;
  }

 private:
  void fill(std::int64_t first, Tensor raw_images, Tensor class_labels) const {
    const auto step = static_cast<std::uint64_t>(state_.step + trainer_.steps_in_flight());
    const Philox random(3, Purpose::test, step);
    const std::int64_t labels = state_.labels_per_image, images = raw_images.shape[0];
    for (std::int64_t i = 0; i < images; ++i) {
      for (std::int64_t l = 0; l < labels; ++l) {
        const bool none = (first + i) % 5 == 0;
        class_labels.as<std::int32_t>()[i * labels + l] =
            none ? -1 : static_cast<std::int32_t>((first + i + l) % kClasses);
      }
    }
    const std::int64_t each = raw_images.elements() / images;
    for (std::int64_t i = 0; i < images * each; ++i) {
      raw_images.as<std::uint8_t>()[i] =
          static_cast<std::uint8_t>(random.bits(static_cast<std::uint64_t>(first * each + i)));
    }
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Communicator> world_ = make_self_communicator(device_.get());
  TrainState state_;
  Trainer trainer_;
};

}  // namespace vitrail::testing
