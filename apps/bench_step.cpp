#include "apps/bench_step.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "apps/bench_measure.hpp"
#include "apps/bench_options.hpp"
#include "apps/bench_profile.hpp"
#include "apps/progress.hpp"
#include "apps/run_start.hpp"
#include "apps/version.hpp"
#include "base/philox.hpp"
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
    "Exit codes: 0 done; 2 usage; 5 the steps did not train.";

struct Settings {
  BenchSettings bench;
  std::int64_t steps = 10;
  std::int64_t warmup = 2;
  double learning_rate = 1e-4;
  bool profile = true;
};

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
      const std::int64_t stride = std::max<std::int64_t>(1, n / 64);
      std::vector<double> sample;
      for (std::int64_t i = 0; i < n; i += stride) {
        sample.push_back(parameter.dtype == Dtype::f64 ? parameter.as<double>()[i]
                                                       : static_cast<double>(parameter.as<float>()[i]));
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
  double all_steps_s = 0;      ///< this rank
  double first_step_s = 0;
  double peak_bytes = 0;        ///< the largest of a rank
  double peak_bytes_total = 0;  ///< over ranks
  double loss_first = 0;
  double loss_last = 0;
  StepReport last;
  std::int64_t tensors = 0;
  std::int64_t tensors_changed = 0;
};

Result run_steps(const Settings& s, TrainState& state, Communicator& world, CountingOps* counting_ops,
                 CountingCommunicator& counting_world) {
  Trainer trainer(state, 1 + s.warmup + s.steps);
  SyntheticBatch batch(state);
  const ParameterSample sample(state);
  const NextPass next_pass = [&](Tensor raw_images, Tensor labels) { batch.next(raw_images, labels); };
  Result result;
  trainer.warm_up();
  result.loss_first = trainer.step(next_pass).metrics.total_loss();
  result.first_step_s = largest_of_ranks(world, process_age_s());
  for (std::int64_t i = 0; i < s.warmup; ++i) (void)trainer.step(next_pass);
  if (counting_ops != nullptr) counting_ops->reset();
  counting_world.reset();

  world.barrier();
  std::vector<std::int64_t> slowest_ns;
  for (std::int64_t i = 0; i < s.steps; ++i) {
    const Stopwatch clock;
    result.last = trainer.step(next_pass);
    const double seconds = clock.seconds();
    result.all_steps_s += seconds;
    slowest_ns.push_back(std::llround(1e9 * seconds));
  }
  world.all_max(slowest_ns);
  for (const std::int64_t ns : slowest_ns) result.step_s.push_back(1e-9 * static_cast<double>(ns));
  result.peak_bytes = largest_of_ranks(world, peak_resident_bytes());
  result.peak_bytes_total = sum_over_ranks(world, peak_resident_bytes());
  result.loss_last = result.last.metrics.total_loss();
  result.tensors = sample.tensors();
  result.tensors_changed = sample.changed();
  VITRAIL_EXPECT(result.loss_last != result.loss_first && result.tensors_changed > 0, ExitCode::numbers,
                 text("after the steps the loss is ", result.loss_last, " (first ", result.loss_first, ") and ",
                      result.tensors_changed, " of ", result.tensors, " parameter tensors have changed"),
                 "a step must train", "Is --learning-rate 0?");
  return result;
}

/// Bytes that a rank sends to one other in an exchange of a sparse layer; 0 when nothing moves.
std::int64_t exchange_bytes(const TrainState& state) {
  if (state.config.model.moe_blocks.empty() || state.layout.expert_parallel == 1) return 0;
  return state.acts.scratch.rows_home.bytes() / state.layout.expert_parallel;
}

struct Speed {
  double images_per_s, gflops, peak, fraction;
};

Json to_json(const Settings& s, const TrainState& state, const Result& result, const Speed& speed, const Rate& copy) {
  const Layout& layout = state.layout;
  const ModelConfig& model = state.config.model;
  const double gib = 1.0 / (1 << 30);
  return Json::object()
      .set("bench", "train_step")
      .set("impl", "vitrail")
      .set("version", kVersion)
      .set("model", s.bench.model.empty() ? s.bench.texts.preset : s.bench.model)
      .set("batch", layout.batch)
      .set("ranks", layout.ranks)
      .set("threads", state.config.threads)
      .set("device", "cpu")
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
      .set("peak_gflops", speed.peak)
      .set("fraction_of_peak", speed.fraction)
      .set("copy_GBps", copy.median)
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
}

void print(const Log& log, const Settings& s, const TrainState& state, const Result& result, const Speed& speed,
           const Rate& copy) {
  const Layout& l = state.layout;
  const ModelConfig& model = state.config.model;
  const auto count = [](std::int64_t n, const char* one, const char* many) {
    return text(n, ' ', n == 1 ? one : many);
  };
  log.info(s.bench.model.empty() ? s.bench.texts.preset : s.bench.model, ": ", parameter_count(state.table),
           " parameters, ", count(model.blocks, "block", "blocks"), ", ", model.moe_blocks.size(), " sparse; back end ",
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
           fixed(speed.peak, 1), " GFLOP/s; copy ", fixed(copy.median, 1), " GB/s)");
  const double mib = 1.0 / (1 << 20);
  log.info("memory      at most ", fixed(mib * result.peak_bytes, 1), " MiB on a rank, ",
           fixed(mib * result.peak_bytes_total, 1), " MiB on all");
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
  config.steps = 1 + s.warmup + s.steps;
  config.schedule = "constant";
  config.power = 1;
  config.staircase = false;
  config.cooldown = 0;
  config.warmup = 0;
  config.learning_rate = s.learning_rate;
}

}  // namespace

int bench_step(MpiSession* session, int argc, const char* const* argv) {
  Settings s;
  Options options("vitrail-bench step", kManual);
  add_options(options, s);
  if (!options.parse(argc, argv) || session == nullptr) return 0;
  apply(options, s);
  const RunConfig& config = s.bench.run;
  const auto world = session->world();
  const Log log("vitrail-bench", world->rank(), world->size());

  const auto device = make_cpu_device();
  const auto plain_ops = make_ops(config, *world);
  CountingOps counting_ops(*plain_ops);
  CountingCommunicator counting_world(*world, "world", {"expert ranks", "replicas"});
  Ops& ops = s.profile ? static_cast<Ops&>(counting_ops) : *plain_ops;
  TrainState state(config, *device, ops, counting_world);
  const Result result = run_steps(s, state, *world, &counting_ops, counting_world);
  const Profile profile(counting_ops, counting_world, static_cast<double>(s.steps), result.all_steps_s);

  const auto threads = static_cast<int>(config.threads);
  const double peak = gemm_ceiling(measure_squares(threads, ops.precision(), s.bench.seconds, *world));
  const Rate copy = measure_copy(threads, s.bench.seconds, *world);
  const double images_per_s = static_cast<double>(state.layout.batch) / median(result.step_s);
  const double gflops = 3e-9 * forward_flops_per_image(config.model) * images_per_s;
  const Speed speed{images_per_s, gflops, peak, gflops / peak};
  const double ranks = world->size();
  const RankCeilings ceilings{peak / ranks, copy.median / ranks};
  const double executed = s.profile ? 1e-9 * sum_over_ranks(*world, profile.flops) : 0;

  if (s.bench.json) {
    Json record = to_json(s, state, result, speed, copy);
    if (s.profile) record.set("executed_gflop_per_step", executed).set("profile", to_json(profile, ceilings));
    log.info(record.dump());
    return 0;
  }
  print(log, s, state, result, speed, copy);
  if (s.profile) {
    print_profile(log, profile, ceilings);
    log.info("\nOver 100 % of copy: the data was still in a cache.");
    log.info("Matrix products made: ", fixed(executed, 4), " GFLOP per step; counted as useful: ",
             fixed(3e-9 * forward_flops_per_image(config.model) * static_cast<double>(state.layout.batch), 4), ".");
  }
  return 0;
}

}  // namespace vitrail
