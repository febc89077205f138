#include "apps/bench_step_report.hpp"

#include <algorithm>

#include "apps/bench_measure.hpp"
#include "apps/progress.hpp"
#include "apps/version.hpp"

namespace vitrail {

namespace {

/// Bytes that a rank sends to one other in an exchange of a sparse layer; 0 when nothing moves.
std::int64_t exchange_bytes(const TrainState& state) {
  if (state.config.model.moe_blocks.empty() || state.layout.expert_parallel == 1) return 0;
  return state.acts.scratch.rows_home.bytes() / state.layout.expert_parallel;
}

/// A rank's memory by what it is for.
struct MemoryClass {
  const char* name;
  std::int64_t bytes;
};
std::vector<MemoryClass> planned_memory(const TrainState& state) {
  return {{"parameters", state.parameter_bytes()},
          {"gradients", state.gradient_bytes()},
          {"optimizer", state.optimizer_bytes()},
          {"activations", state.activation_bytes()},
          {"workspace", state.ops.workspace_bytes()}};
}
std::int64_t bytes_of(const std::vector<MemoryClass>& classes) {
  std::int64_t sum = 0;
  for (const MemoryClass& one : classes) sum += one.bytes;
  return sum;
}
/// "parameters 1.25, gradients 1.25, ..."
std::string shown(const std::vector<MemoryClass>& classes, double unit, int digits) {
  std::string line;
  for (const MemoryClass& one : classes) {
    line += text(line.empty() ? "" : ", ", one.name, ' ', fixed(unit * static_cast<double>(one.bytes), digits));
  }
  return line;
}

/// What was planned, and what is in use.
Json memory_json(const TrainState& state, const StepResult& result) {
  const double gib = 1.0 / (1 << 30);
  Json json = Json::object();
  const std::vector<MemoryClass> planned = planned_memory(state);
  for (const MemoryClass& one : planned) json.set(text(one.name, "_GiB"), gib * static_cast<double>(one.bytes));
  json.set("planned_GiB", gib * static_cast<double>(bytes_of(planned)));
  if (state.device.kind() == DeviceKind::cpu) return json.set("program_GiB", gib * result.bytes_before);
  return json.set("in_use_GiB", gib * static_cast<double>(result.gpu.used))
      .set("of_GiB", gib * static_cast<double>(result.gpu.total));
}

}  // namespace

Json to_json(const StepSettings& s, const Machine& machine, const TrainState& state, const StepResult& result,
             const StepSpeed& speed) {
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
      .set("recompute", state.config.recompute)
      .set("early_update", !state.early_updates.empty())
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
      .set(on_gpu ? "device_memory" : "memory", memory_json(state, result))
      .set("first_step_s", result.first_step_s)
      .set("loss_first", result.loss_first)
      .set("loss_last", result.loss_last)
      .set("drop_rate", result.last.metrics.drop_rate())
      .set("load_imbalance", result.last.metrics.load_imbalance())
      .set("exchange_bytes_per_pair", exchange_bytes(state))
      .set("tensors", result.tensors)
      .set("tensors_changed", result.tensors_changed);
  if (on_gpu) {
    json.set("gpu", state.device.description()).set("communicator", machine.carrier()).set("graphs", machine.graphs());
    if (speed.vendor_gflops > 0) json.set("vendor_peak_gflops", speed.vendor_gflops).set("mfu", speed.mfu());
  }
  return json;
}

namespace {

void print_gpu_memory(const Log& log, const TrainState& state, const StepResult& result) {
  const auto gib = [](std::int64_t bytes) { return fixed(static_cast<double>(bytes) / (1 << 30), 2); };
  const std::vector<MemoryClass> planned = planned_memory(state);
  log.info("GPU memory  ", shown(planned, 1.0 / (1 << 30), 2),
           " GiB as planned; cuBLASLt, CUDA itself and other processes ", gib(result.gpu.used - bytes_of(planned)),
           " GiB: together ", gib(result.gpu.used), " of ", gib(result.gpu.total), " GiB");
}

void print_cpu_memory(const Log& log, const TrainState& state, const StepResult& result) {
  const double mib = 1.0 / (1 << 20);
  const std::vector<MemoryClass> planned = planned_memory(state);
  log.info("planned     ", shown(planned, mib, 1), ": ", fixed(mib * static_cast<double>(bytes_of(planned)), 1),
           " MiB on this rank, and ", fixed(mib * result.bytes_before, 1), " MiB before for program and libraries");
}

}  // namespace

void print(const Log& log, const StepSettings& s, const TrainState& state, const StepResult& result,
           const StepSpeed& speed) {
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
  (state.device.kind() == DeviceKind::cuda ? print_gpu_memory : print_cpu_memory)(log, state, result);
  log.info("check       loss ", fixed(result.loss_first, 6), " at the first step, ", fixed(result.loss_last, 6),
           " at the last; ", result.tensors_changed, " of ", result.tensors, " parameter tensors changed; dropped ",
           fixed(100 * result.last.metrics.drop_rate(), 2), " %\n");
}

void print_profiles(const Log& log, const Profile& profile, double profiled_steps, double executed,
                    const TrainState& state) {
  const bool on_gpu = state.device.kind() == DeviceKind::cuda;
  const ProfileUnits units = on_gpu ? ProfileUnits::tera : ProfileUnits::giga;
  if (on_gpu) {
    log.info("Profile: ", fixed(profiled_steps, 0), " further steps without graphs, ", fixed(1e3 * profile.step_s, 3),
             " ms each, verbs by the GPU's clock.\n");
    print_profile(log, profile.kinds, profile.step_s, "kind of verb (rank 0, per step)", units);
    log.info("");
  }
  print_profile(log, profile.lines, profile.step_s, "verb (rank 0, per step)", units);
  log.info("\nOver 100 % of copy: the data was still in a cache.");
  log.info("Matrix products made: ", fixed(executed, 4), " GFLOP per step; counted as useful: ",
           fixed(3e-9 * forward_flops_per_image(state.config.model) * static_cast<double>(state.layout.batch), 4), ".");
}

}  // namespace vitrail
