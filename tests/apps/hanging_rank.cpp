// hanging_rank RANK RUN_DIR SECONDS: trains for a few steps; in step 3 rank RANK falls asleep inside an all-to-all
// between experts (none with -1). SECONDS is the time that counts as a hang. Started by check_hanging_ranks.py.

#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "apps/hang_report.hpp"
#include "comm/mpi/mpi.hpp"
#include "train/presets.hpp"
#include "train/step.hpp"

namespace {

using namespace vitrail;  // NOLINT(google-build-using-namespace): a test program

constexpr std::int64_t kLastStep = 5, kSleepyStep = 3;

class SleepyCommunicator final : public Communicator {
 public:
  SleepyCommunicator(Communicator& inner, const Activity& activity, bool sleeps)
      : inner_(inner), activity_(activity), sleeps_(sleeps) {}
  SleepyCommunicator(std::unique_ptr<Communicator> owned, const Activity& activity, bool sleeps)
      : owned_(std::move(owned)), inner_(*owned_), activity_(activity), sleeps_(sleeps) {}

  [[nodiscard]] int rank() const noexcept override { return inner_.rank(); }
  [[nodiscard]] int size() const noexcept override { return inner_.size(); }
  void barrier() override { inner_.barrier(); }
  void broadcast(Tensor data, int root) override { inner_.broadcast(data, root); }
  void all_gather(ConstTensor from, Tensor to) override { inner_.all_gather(from, to); }
  void start_all_to_all(ConstTensor from, Tensor to) override {
    const Activity::Glance seen = activity_.look();
    if (sleeps_ && seen.step == kSleepyStep && seen.layer >= 0) std::this_thread::sleep_for(std::chrono::hours(1));
    inner_.start_all_to_all(from, to);
  }
  void finish_all_to_all() override { inner_.finish_all_to_all(); }
  void all_min(std::span<std::int64_t> values) override { inner_.all_min(values); }
  void all_max(std::span<std::int64_t> values) override { inner_.all_max(values); }
  void all_sum(std::span<std::int64_t> values) override { inner_.all_sum(values); }
  std::unique_ptr<Communicator> split(int colour) override {
    return std::make_unique<SleepyCommunicator>(inner_.split(colour), activity_, sleeps_);
  }

 private:
  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
  const Activity& activity_;
  bool sleeps_;
};

RunConfig small_config() {
  RunConfig config = preset("fmnist");
  config.model.width = 16;
  config.model.mlp_width = 32;
  config.model.heads = 2;
  config.model.experts = 4;
  config.batch = 32;
  config.leaf_images = 8;
  config.expert_parallel = 2;
  resolve(config);
  return config;
}

int run(MpiSession& session, int sleeper, const std::string& run_dir, double seconds) {
  const auto mpi = session.world();
  Activity activity;
  const HangWatch watch({"hanging-rank", run_dir, seconds}, *mpi, activity);
  SleepyCommunicator sleepy(*mpi, activity, mpi->rank() == sleeper);
  const auto world = make_watched_communicator(sleepy, activity);
  const auto device = make_cpu_device();
  const auto ops = make_cpu_ops(1);
  ops->watch(activity);
  TrainState state(small_config(), *device, *ops, *world, 1);
  Trainer trainer(state, kLastStep);
  trainer.warm_up();
  while (state.step < kLastStep) {
    (void)trainer.step([](Tensor images, Tensor labels) {
      std::memset(images.data, 7, static_cast<std::size_t>(images.bytes()));
      std::memset(labels.data, 0, static_cast<std::size_t>(labels.bytes()));
    });
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_ranks(argc, argv, "hanging-rank",
                   [&](MpiSession& session) { return run(session, std::stoi(argv[1]), argv[2], std::stod(argv[3])); });
}
