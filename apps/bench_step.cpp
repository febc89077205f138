#include "apps/bench_step.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "apps/bench_device.hpp"
#include "apps/bench_measure.hpp"
#include "apps/bench_options.hpp"
#include "apps/bench_profile.hpp"
#include "apps/progress.hpp"
#include "apps/run_start.hpp"
#include "apps/version.hpp"
#include "base/philox.hpp"
#include "device/host_values.hpp"
#include "ops/exponential_rate.hpp"
#include "train/step.hpp"

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

struct Settings {
  BenchSettings bench;
  std::int64_t steps = 10;
  std::int64_t warmup = 2;
  double learning_rate = 1e-4;
  bool profile = true;
  std::optional<double> peak_tflops;
};

constexpr std::int64_t kProfiledSteps = 3;

/// With the first step, which is not timed.
std::int64_t total_steps_of(const Settings& s, bool on_gpu) {
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

struct Result {
  std::vector<double> step_s;  ///< of the slowest rank
  double profiled_s = 0;       ///< this rank, all steps of the profile together
  std::int64_t profiled_steps = 0;
  double first_step_s = 0;
  double peak_bytes = 0;        ///< the largest of a rank
  double peak_bytes_total = 0;  ///< over ranks
  MemoryInUse gpu;              ///< of this rank's, after the steps
  double loss_first = 0;
  double loss_last = 0;
  StepReport last;
  std::int64_t tensors = 0;
  std::int64_t tensors_changed = 0;
};

/// What the steps run on.
struct Bench {
  const Settings& settings;
  const Machine& machine;
  BenchDevice device;
  CountingOps ops;
  CountingCommunicator world;
  /// On a GPU, verbs are timed in steps of their own.
  [[nodiscard]] bool on_gpu() const { return machine.device().kind() == DeviceKind::cuda; }
};

/// Seconds of each of `count` steps on this rank; `more` says that others come after them.
std::vector<double> time_steps(Trainer& trainer, const NextPass& next_pass, std::int64_t count, bool more,
                               Result& result) {
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < count; ++i) {
    const Stopwatch clock;
    result.last = trainer.step(next_pass);
    seconds.push_back(clock.seconds());
  }
  static_cast<void>(more);
  return seconds;
}

/// Steps for the profile alone: verb by verb, so that each can be timed.
void run_profiled_steps(Bench& bench, Trainer& trainer, const NextPass& next_pass, Result& result) {
  bench.device.synchronize();
  bench.device.call_by_call(true);
  bench.ops.count_calls(true);
  bench.ops.reset();
  bench.world.reset();
  const Stopwatch clock;
  (void)time_steps(trainer, next_pass, kProfiledSteps, false, result);
  bench.device.synchronize();
  result.profiled_s = clock.seconds();
  result.profiled_steps = kProfiledSteps;
  bench.ops.count_calls(false);
  bench.device.call_by_call(false);
}

Result run_steps(Bench& bench, TrainState& state) {
  const Settings& s = bench.settings;
  Communicator& world = bench.machine.world();
  bench.ops.count_calls(!bench.on_gpu());
  Trainer trainer(state, total_steps_of(s, bench.on_gpu()));
  SyntheticBatch batch(state);
  const ParameterSample sample(state);
  const NextPass next_pass = [&](Activations& acts) { batch.next(acts.raw_images, acts.labels); };
  Result result;
  trainer.warm_up();
  result.loss_first = trainer.step(next_pass).metrics.total_loss();
  result.first_step_s = largest_of_ranks(world, process_age_s());
  (void)time_steps(trainer, next_pass, s.warmup, false, result);
  bench.ops.reset();
  bench.world.reset();

  world.barrier();
  result.step_s = time_steps(trainer, next_pass, s.steps, false, result);
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

/// Bytes that a rank sends to one other in an exchange of a sparse layer; 0 when nothing moves.
std::int64_t exchange_bytes(const TrainState& state) {
  if (state.config.model.moe_blocks.empty() || state.layout.expert_parallel == 1) return 0;
  return state.acts.scratch.rows_home.bytes() / state.layout.expert_parallel;
}

struct Speed {
  double images_per_s = 0;
  double gflops = 0;       ///< useful ones, of all ranks
  double peak_gflops = 0;  ///< measured
  double fraction = 0;     ///< of that
  double copy_GBps = 0;
  double vendor_gflops = 0;  ///< 0: not known
  [[nodiscard]] double mfu() const { return vendor_gflops > 0 ? gflops / vendor_gflops : 0; }
};

/// What the vendors give for dense bf16 products, TFLOP/s; 0 for GPUs that are not listed.
double vendor_tflops(const std::string& gpu, Precision precision) {
  if (precision != Precision::bf16 || gpu.find("PCIe") != std::string::npos || gpu.find("NVL") != std::string::npos) {
    return 0;
  }
  if (gpu.find("H100") != std::string::npos || gpu.find("H200") != std::string::npos) return 989;
  return gpu.find("A100") != std::string::npos ? 312 : 0;
}

/// Memory of the GPU: what was planned, and what is in use.
Json memory_json(const TrainState& state, const Result& result) {
  const double gib = 1.0 / (1 << 30);
  return Json::object()
      .set("parameters_GiB", gib * static_cast<double>(state.parameter_bytes()))
      .set("gradients_GiB", gib * static_cast<double>(state.gradient_bytes()))
      .set("optimizer_GiB", gib * static_cast<double>(state.optimizer_bytes()))
      .set("activations_GiB", gib * static_cast<double>(state.activation_bytes()))
      .set("in_use_GiB", gib * static_cast<double>(result.gpu.used))
      .set("of_GiB", gib * static_cast<double>(result.gpu.total));
}

Json to_json(const Settings& s, const Machine& machine, const TrainState& state, const Result& result,
             const Speed& speed) {
  const Layout& layout = state.layout;
  const ModelConfig& model = state.config.model;
  const double gib = 1.0 / (1 << 30);
  const bool on_gpu = state.device.kind() == DeviceKind::cuda;
  Json json = Json::object();
  json.set("bench", "train_step")
      .set("impl", "vitrail")
      .set("version", kVersion)
      .set("model", model_name(s.bench))
      .set("batch", layout.batch)
      .set("ranks", layout.ranks)
      .set("threads", state.config.threads)
      .set("device", on_gpu ? "cuda" : "cpu")
      .set("backend", state.config.backend)
      .set("dtype", name_of(state.ops.real()))
      .set("precision", state.config.precision)
      .set("expert_parallel", layout.expert_parallel)
      .set("leaf_images", layout.leaf_images)
      .set("leaves", layout.leaves())
      .set("leaves_per_pass", layout.leaves_per_pass)
      .set("passes", layout.passes())
      .set("params_M", 1e-6 * static_cast<double>(parameter_count(state.table)))
      .set("train_gflop_per_image", 3e-9 * forward_flops_per_image(model))
      .set("step_s", median(result.step_s))
      .set("step_s_min", *std::min_element(result.step_s.begin(), result.step_s.end()))
      .set("steps", s.steps)
      .set("images_per_s", speed.images_per_s)
      .set("gflops", speed.gflops)
      .set("peak_gflops", speed.peak_gflops)
      .set("fraction_of_peak", speed.fraction)
      .set("copy_GBps", speed.copy_GBps)
      .set("peak_rss_GiB", gib * result.peak_bytes)
      .set("peak_rss_total_GiB", gib * result.peak_bytes_total)
      .set("first_step_s", result.first_step_s)
      .set("loss_first", result.loss_first)
      .set("loss_last", result.loss_last)
      .set("drop_rate", result.last.metrics.drop_rate())
      .set("load_imbalance", result.last.metrics.load_imbalance())
      .set("exchange_bytes_per_pair", exchange_bytes(state))
      .set("tensors", result.tensors)
      .set("tensors_changed", result.tensors_changed);
  if (on_gpu) {
    json.set("gpu", state.device.description())
        .set("communicator", machine.carrier())
        .set("graphs", machine.graphs())
        .set("device_memory", memory_json(state, result));
    if (speed.vendor_gflops > 0) json.set("vendor_peak_gflops", speed.vendor_gflops).set("mfu", speed.mfu());
  }
  return json;
}

void print_gpu_memory(const Log& log, const TrainState& state, const Result& result) {
  const auto gib = [](std::int64_t bytes) { return fixed(static_cast<double>(bytes) / (1 << 30), 2); };
  const std::int64_t planned =
      state.parameter_bytes() + state.gradient_bytes() + state.optimizer_bytes() + state.activation_bytes();
  log.info("GPU memory  parameters ", gib(state.parameter_bytes()), ", gradients ", gib(state.gradient_bytes()),
           ", optimizer ", gib(state.optimizer_bytes()), ", activations ", gib(state.activation_bytes()),
           " GiB as planned; workspaces, CUDA itself and other processes ", gib(result.gpu.used - planned),
           " GiB: together ", gib(result.gpu.used), " of ", gib(result.gpu.total), " GiB");
}

void print(const Log& log, const Settings& s, const TrainState& state, const Result& result, const Speed& speed) {
  const Layout& l = state.layout;
  const ModelConfig& model = state.config.model;
  const auto count = [](std::int64_t n, const char* one, const char* many) {
    return text(n, ' ', n == 1 ? one : many);
  };
  log.info(model_name(s.bench), ": ", parameter_count(state.table), " parameters, ",
           count(model.blocks, "block", "blocks"), ", ", model.moe_blocks.size(), " sparse; back end ",
           state.ops.name(), ", ", name_of(state.ops.real()),
           state.ops.precision() == Precision::bf16 ? ", bf16 products" : "");
  log.info("batch       ", l.batch, " images = ", count(l.leaves(), "leaf", "leaves"), " of ", l.leaf_images, " = ",
           count(l.passes(), "pass", "passes"), " x ", count(l.ranks, "rank", "ranks"), " x ", l.leaves_per_pass,
           "; expert-parallel width ", l.expert_parallel, ", ", count(state.config.threads, "thread", "threads"),
           " per rank");
  if (const std::int64_t bytes = exchange_bytes(state); bytes > 0) {
    log.info("exchange    ", bytes,
             " bytes per pair of ranks, four times per sparse block and pass (vitrail-bench exchange --bytes ",
             bytes / 8 * 8, ")");
  }
  log.info("step        ", fixed(1e3 * median(result.step_s), 3), " ms (median of ", s.steps, ", best ",
           fixed(1e3 * *std::min_element(result.step_s.begin(), result.step_s.end()), 3), "); first step ",
           fixed(result.first_step_s, 2), " s after the start of the program");
  log.info("speed       ", fixed(speed.images_per_s, 1), " images/s = ", fixed(speed.gflops, 1),
           " GFLOP/s = ", fixed(100 * speed.fraction, 1), " % of the ", s.bench.run.precision, " GEMM peak (",
           fixed(speed.peak_gflops, 1), " GFLOP/s; copy ", fixed(speed.copy_GBps, 1), " GB/s)");
  if (speed.vendor_gflops > 0) {
    log.info("MFU         ", fixed(100 * speed.mfu(), 1), " % of ", fixed(1e-3 * speed.vendor_gflops, 0), " TFLOP/s (",
             s.peak_tflops ? "as given" : "dense bf16, as the vendor gives it", ")");
  }
  const double mib = 1.0 / (1 << 20);
  log.info("memory      at most ", fixed(mib * result.peak_bytes, 1), " MiB on a rank, ",
           fixed(mib * result.peak_bytes_total, 1), " MiB on all");
  if (state.device.kind() == DeviceKind::cuda) print_gpu_memory(log, state, result);
  log.info("check       loss ", fixed(result.loss_first, 6), " at the first step, ", fixed(result.loss_last, 6),
           " at the last; ", result.tensors_changed, " of ", result.tensors, " parameter tensors changed; dropped ",
           fixed(100 * result.last.metrics.drop_rate(), 2), " %\n");
}

void add_options(Options& options, Settings& s) {
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

void apply(Options& options, Settings& s) {
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
Speed measure_speed(const Settings& s, const Machine& machine, const TrainState& state, const Result& result) {
  const auto threads = static_cast<int>(s.bench.run.threads);
  const auto ranks = static_cast<double>(machine.world().size());
  Speed speed;
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

RankCeilings ceilings_of_a_rank(const Machine& machine, const Speed& speed) {
  const auto ranks = static_cast<double>(machine.world().size());
  const bool gpu = machine.device().kind() == DeviceKind::cuda;
  return {speed.peak_gflops / ranks, speed.copy_GBps / ranks, gpu ? exponentials_per_second(machine.device()) : 0};
}

void print_profiles(const Log& log, const Profile& profile, bool on_gpu, double executed, const TrainState& state) {
  const ProfileUnits units = on_gpu ? ProfileUnits::tera : ProfileUnits::giga;
  if (on_gpu) {
    log.info("Profile: ", kProfiledSteps, " further steps without graphs, ", fixed(1e3 * profile.step_s, 3),
             " ms each, verbs by the GPU's clock.\n");
    print_profile(log, profile.kinds, profile.step_s, "kind of verb (rank 0, per step)", units);
    log.info("");
  }
  print_profile(log, profile.lines, profile.step_s, "verb (rank 0, per step)", units);
  log.info("\nOver 100 % of copy: the data was still in a cache.");
  log.info("Matrix products made: ", fixed(executed, 4), " GFLOP per step; counted as useful: ",
           fixed(3e-9 * forward_flops_per_image(state.config.model) * static_cast<double>(state.layout.batch), 4), ".");
}

}  // namespace

int bench_step(MpiSession* session, int argc, const char* const* argv) {
  Settings s;
  Options options("vitrail-bench step", kManual);
  add_options(options, s);
  if (!options.parse(argc, argv) || session == nullptr) return 0;
  apply(options, s);
  const RunConfig& config = s.bench.run;
  const Log log("vitrail-bench", session->rank(), session->size());

  const Machine machine(*session, config, s.bench.machine);
  Communicator& world = machine.world();
  Bench bench{s, machine, BenchDevice(machine.device()), CountingOps(machine.ops(), machine.device()),
              CountingCommunicator(world, "world", {"expert ranks", "replicas"})};
  Ops& ops = s.profile ? static_cast<Ops&>(bench.ops) : machine.ops();
  TrainState state(config, bench.device, ops, bench.world);
  const Result result = run_steps(bench, state);
  Profile profile(bench.ops, bench.world, static_cast<double>(result.profiled_steps), result.profiled_s);

  const Speed speed = measure_speed(s, machine, state, result);
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
  if (s.profile) print_profiles(log, profile, bench.on_gpu(), executed, state);
  return 0;
}

}  // namespace vitrail
