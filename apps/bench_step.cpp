#include "apps/bench_step.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "apps/bench_device.hpp"
#include "apps/bench_measure.hpp"
#include "apps/bench_step_report.hpp"
#include "apps/launch_check.hpp"
#include "apps/progress.hpp"
#include "apps/run_start.hpp"
#include "base/philox.hpp"
#include "device/host_values.hpp"
#include "ops/exponential_rate.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "Times whole training steps (forward, backward, gradients over ranks, AdamW) on a batch of noise that stays in "
    "memory.\n"
    "\n"
    "  vitrail-bench step --preset fmnist --threads 2\n"
    "  vitrail-bench step --model s32 --experts 32 --threads 2 --json\n"
    "  mpirun -np 2 vitrail-bench step --preset fmnist --expert-parallel 2\n"
    "\n"
    "  vitrail-bench step --model b16 --batch 128 --leaf-images 128 --backend cuda --precision bf16\n"
    "\n"
    "Speed is the median step. Useful FLOPs are those of the model's formula: 2 per multiply-add of matrix products, "
    "three\n"
    "times the forward pass, K x capacity slots per token in the experts, nothing for anything else. They are held "
    "against\n"
    "the GEMM peak, measured after the steps on all ranks at once. The profile counts, per verb, the matrix products "
    "that\n"
    "were really made (slots are rounded up) or the bytes that must move, and holds them against GEMM peak or copy "
    "bandwidth.\n"
    "Checked: losses are finite and change, parameters change and stay finite; loss_first and loss_last are the same "
    "bits on\n"
    "every layout of ranks.\n"
    "\n"
    "On a GPU, MFU is the useful FLOP/s as a part of what the vendor gives for dense bf16 products (--peak-tflops). "
    "Verbs are\n"
    "timed in steps of their own, after the ones whose speed is reported, by the GPU's clock and without graphs; each "
    "is held\n"
    "against the largest of three times: its FLOPs at the GEMM peak, its bytes at the speed of a copy, and its "
    "exponentials at\n"
    "their measured rate.\n"
    "\n"
    "Exit codes: 0 done; 2 usage; 5 the steps did not train.";

constexpr std::int64_t kProfiledSteps = 3;

/// With the first step, which is not timed.
std::int64_t total_steps_of(const StepSettings& s, bool on_gpu) {
  return 1 + s.warmup + s.steps + (on_gpu && s.profile ? kProfiledSteps : 0);
}

/// Images and labels of a step: a function of the place in the global batch.
class SyntheticBatch {
 public:
  explicit SyntheticBatch(const TrainState& state) : layout_(state.layout) {
    const ModelConfig& c = state.config.model;
    image_bytes_ = c.image_height * c.image_width * c.channels;
    const std::int64_t here = layout_.passes() * layout_.pass_images();
    images_.resize(static_cast<std::size_t>(here * image_bytes_));
    labels_.resize(static_cast<std::size_t>(here));
    const auto seed = static_cast<std::uint64_t>(state.config.seed);
    const Philox pixels(seed, Purpose::test, 0), classes(seed, Purpose::test, 1);
    for (std::int64_t i = 0; i < here; ++i) {
      const std::int64_t global = layout_.first_image(i / layout_.pass_images()) + i % layout_.pass_images();
      labels_[static_cast<std::size_t>(i)] =
          static_cast<std::int32_t>(classes.bits(static_cast<std::uint64_t>(global)) % c.classes);
      std::array<std::uint32_t, 4> words{};
      for (std::int64_t j = 0; j < image_bytes_; ++j) {
        const auto index = static_cast<std::uint64_t>(global * image_bytes_ + j);
        // A byte each of the four words that sixteen neighbours share.
        if (j == 0 || index % 16 == 0) words = pixels.words(index / 16);
        images_[static_cast<std::size_t>(i * image_bytes_ + j)] =
            static_cast<std::uint8_t>(words[index % 16 / 4] >> (8 * (index % 4)));
      }
    }
  }

  void next(Tensor raw_images, Tensor labels) {
    const std::int64_t first = pass_ * layout_.pass_images();
    std::memcpy(raw_images.data, images_.data() + first * image_bytes_, static_cast<std::size_t>(raw_images.bytes()));
    std::memcpy(labels.data, labels_.data() + first, static_cast<std::size_t>(labels.bytes()));
    pass_ = (pass_ + 1) % layout_.passes();
  }

 private:
  const Layout& layout_;
  std::int64_t image_bytes_ = 0;
  std::vector<std::uint8_t> images_;
  std::vector<std::int32_t> labels_;
  std::int64_t pass_ = 0;
};

/// A few values of every parameter tensor of this rank, to see that training moves them.
class ParameterSample {
 public:
  explicit ParameterSample(const TrainState& state) : state_(state), before_(take()) {}

  /// Tensors whose sample has changed. Error (numbers) when a value is not finite.
  [[nodiscard]] std::int64_t changed() const {
    const auto now = take();
    std::int64_t count = 0;
    for (std::size_t i = 0; i < now.size(); ++i) {
      for (const double value : now[i]) {
        VITRAIL_EXPECT(std::isfinite(value), ExitCode::numbers,
                       text(state_.table[i].name, " holds ", value, " after the steps"), "training has diverged",
                       "Lower --learning-rate");
      }
      if (now[i] != before_[i]) ++count;
    }
    return count;
  }
  [[nodiscard]] std::int64_t tensors() const { return static_cast<std::int64_t>(before_.size()); }

 private:
  [[nodiscard]] std::vector<std::vector<double>> take() const {
    std::vector<std::vector<double>> all;
    for (const Tensor& parameter : state_.parameters) {
      const std::int64_t n = parameter.elements();
      const std::int64_t stride = std::max<std::int64_t>(1, n / 16);
      std::vector<double> sample;
      for (std::int64_t i = 0; i < n; i += stride) {
        sample.push_back(to_doubles(state_.device, parameter.view({n}).slice(i, 1)).front());
      }
      all.push_back(std::move(sample));
    }
    return all;
  }

  const TrainState& state_;
  std::vector<std::vector<double>> before_;
};

/// What the steps run on.
struct Bench {
  const StepSettings& settings;
  const Machine& machine;
  BenchDevice device;
  CountingOps ops;
  CountingCommunicator world;
  /// On a GPU, verbs are timed in steps of their own.
  [[nodiscard]] bool on_gpu() const { return machine.device().kind() == DeviceKind::cuda; }
};

/// Seconds of each of `count` steps on this rank. On a GPU a step is in the queue before the one before it is done.
std::vector<double> time_steps(Trainer& trainer, const NextPass& next_pass, std::int64_t count, StepResult& result) {
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < count; ++i) {
    const Stopwatch clock;
    result.last = trainer.step(next_pass, i + 1 < count);
    seconds.push_back(clock.seconds());
  }
  return seconds;
}

/// Steps for the profile alone: verb by verb, so that each can be timed.
void run_profiled_steps(Bench& bench, Trainer& trainer, const NextPass& next_pass, StepResult& result) {
  bench.device.synchronize();
  bench.device.call_by_call(true);
  bench.ops.count_calls(true);
  bench.ops.reset();
  bench.world.reset();
  const Stopwatch clock;
  (void)time_steps(trainer, next_pass, kProfiledSteps, result);
  bench.device.synchronize();
  result.profiled_s = clock.seconds();
  result.profiled_steps = kProfiledSteps;
  bench.ops.count_calls(false);
  bench.device.call_by_call(false);
}

StepResult run_steps(Bench& bench, TrainState& state) {
  const StepSettings& s = bench.settings;
  Communicator& world = bench.machine.world();
  bench.ops.count_calls(!bench.on_gpu());
  Trainer trainer(state, total_steps_of(s, bench.on_gpu()));
  SyntheticBatch batch(state);
  const ParameterSample sample(state);
  const NextPass next_pass = [&](Tensor raw_images, Tensor labels) { batch.next(raw_images, labels); };
  StepResult result;
  trainer.warm_up();
  result.loss_first = trainer.step(next_pass).metrics.total_loss();
  result.first_step_s = largest_of_ranks(world, process_age_s());
  (void)time_steps(trainer, next_pass, s.warmup, result);
  bench.ops.reset();
  bench.world.reset();

  world.barrier();
  result.step_s = time_steps(trainer, next_pass, s.steps, result);
  result.profiled_s = std::accumulate(result.step_s.begin(), result.step_s.end(), 0.0);
  result.profiled_steps = s.steps;
  std::vector<std::int64_t> slowest_ns;
  for (const double seconds : result.step_s) slowest_ns.push_back(std::llround(1e9 * seconds));
  world.all_max(slowest_ns);
  result.step_s.clear();
  for (const std::int64_t ns : slowest_ns) result.step_s.push_back(1e-9 * static_cast<double>(ns));
  result.peak_bytes = largest_of_ranks(world, peak_resident_bytes());
  result.peak_bytes_total = sum_over_ranks(world, peak_resident_bytes());
  result.gpu = memory_in_use(bench.machine.device());
  result.loss_last = result.last.metrics.total_loss();
  result.tensors = sample.tensors();
  result.tensors_changed = sample.changed();
  VITRAIL_EXPECT(result.loss_last != result.loss_first && result.tensors_changed > 0, ExitCode::numbers,
                 text("after the steps the loss is ", result.loss_last, " (first ", result.loss_first, ") and ",
                      result.tensors_changed, " of ", result.tensors, " parameter tensors have changed"),
                 "a step must train", "Is --learning-rate 0?");
  if (bench.on_gpu() && s.profile) run_profiled_steps(bench, trainer, next_pass, result);
  return result;
}

/// What the vendors give for dense bf16 products, TFLOP/s; 0 for GPUs that are not listed.
double vendor_tflops(const std::string& gpu, Precision precision) {
  if (precision != Precision::bf16 || gpu.find("PCIe") != std::string::npos || gpu.find("NVL") != std::string::npos) {
    return 0;
  }
  if (gpu.find("H100") != std::string::npos || gpu.find("H200") != std::string::npos) return 989;
  return gpu.find("A100") != std::string::npos ? 312 : 0;
}

void add_options(Options& options, StepSettings& s) {
  add_bench_model_options(options, s.bench);
  options.section("Steps");
  options.add("steps", s.steps, "N", "timed steps").only_on_command_line();
  options.add("warmup", s.warmup, "N", "steps between the first one and the timed ones").only_on_command_line();
  options.add("profile", s.profile, "", "time per verb; on for tables, off for --json unless given")
      .only_on_command_line();
  options
      .add("peak-tflops", s.peak_tflops, "X",
           "of one GPU, for MFU; default: 989 (H100, H200) or 312 (A100) in bf16, else none")
      .only_on_command_line();
  options.add("learning-rate", s.learning_rate, "X", "constant").only_on_command_line();
  options.add("clip-norm", s.bench.run.clip_norm, "X", "clip gradients by global norm; 0: off").only_on_command_line();
  options.add("loss", s.bench.run.loss, "NAME", "softmax or sigmoid cross-entropy")
      .choices({"softmax", "sigmoid"})
      .only_on_command_line();
  options.add("seed", s.bench.run.seed, "N", "of initial values, images and router noise").only_on_command_line();
}

void apply(Options& options, StepSettings& s) {
  s.profile = options.given("profile").has_value() || !options.given("json").has_value();
  apply_bench_options(options, s.bench);
  VITRAIL_EXPECT(s.steps >= 1 && s.warmup >= 0, ExitCode::usage, text("--steps ", s.steps, " --warmup ", s.warmup),
                 "at least one step is timed", "");
  RunConfig& config = s.bench.run;
  config.epochs = 0;
  config.steps = total_steps_of(s, config.backend == "cuda");
  config.schedule = "constant";
  config.power = 1;
  config.staircase = false;
  config.cooldown = 0;
  config.warmup = 0;
  config.learning_rate = s.learning_rate;
}

/// The ceilings, measured now, and the speed beside them. Collective.
StepSpeed measure_speed(const StepSettings& s, const Machine& machine, const TrainState& state,
                        const StepResult& result) {
  const auto threads = static_cast<int>(s.bench.run.threads);
  const auto ranks = static_cast<double>(machine.world().size());
  StepSpeed speed;
  speed.images_per_s = static_cast<double>(state.layout.batch) / median(result.step_s);
  speed.gflops = 3e-9 * forward_flops_per_image(s.bench.run.model) * speed.images_per_s;
  speed.peak_gflops = gemm_ceiling(measure_squares(machine, threads, s.bench.seconds));
  speed.fraction = speed.gflops / speed.peak_gflops;
  speed.copy_GBps = measure_copy(machine, threads, s.bench.seconds).median;
  if (machine.device().kind() != DeviceKind::cuda) return speed;
  const double listed = vendor_tflops(machine.device().description(), machine.ops().precision());
  speed.vendor_gflops = 1e3 * s.peak_tflops.value_or(listed) * ranks;
  return speed;
}

RankCeilings ceilings_of_a_rank(const Machine& machine, const StepSpeed& speed) {
  const auto ranks = static_cast<double>(machine.world().size());
  const bool gpu = machine.device().kind() == DeviceKind::cuda;
  return {speed.peak_gflops / ranks, speed.copy_GBps / ranks, gpu ? exponentials_per_second(machine.device()) : 0};
}

}  // namespace

int bench_step(MpiSession* session, int argc, const char* const* argv) {
  StepSettings s;
  Options options("vitrail-bench step", kManual);
  add_options(options, s);
  if (!options.parse(argc, argv) || session == nullptr) return 0;
  apply(options, s);
  const RunConfig& config = s.bench.run;
  const Log log("vitrail-bench", session->rank(), session->size());

  check_launch(*session, log, options, {config.threads, s.bench.machine.oversubscribe, {}});
  Activity activity;
  const Machine machine(*session, config, s.bench.machine, activity);
  Communicator& world = machine.world();
  Bench bench{s, machine, BenchDevice(machine.device()), CountingOps(machine.ops(), machine.device()),
              CountingCommunicator(world, "world", {"expert ranks", "replicas"})};
  Ops& ops = s.profile ? static_cast<Ops&>(bench.ops) : machine.ops();
  const double bytes_before = resident_bytes();
  TrainState state(config, bench.device, ops, bench.world);
  StepResult result = run_steps(bench, state);
  result.bytes_before = bytes_before;
  Profile profile(bench.ops, bench.world, static_cast<double>(result.profiled_steps), result.profiled_s);

  const StepSpeed speed = measure_speed(s, machine, state, result);
  profile.hold_against(ceilings_of_a_rank(machine, speed));
  const double executed = s.profile ? 1e-9 * sum_over_ranks(world, profile.flops) : 0;
  if (s.bench.json) {
    Json record = to_json(s, machine, state, result, speed);
    if (s.profile) {
      record.set("executed_gflop_per_step", executed).set("profile", to_json(profile.lines, profile.step_s));
      if (bench.on_gpu()) record.set("profile_kinds", to_json(profile.kinds, profile.step_s));
    }
    log.info(record.dump());
    return 0;
  }
  machine.report(log);
  print(log, s, state, result, speed);
  if (s.profile) print_profiles(log, profile, static_cast<double>(result.profiled_steps), executed, state);
  return 0;
}

}  // namespace vitrail
