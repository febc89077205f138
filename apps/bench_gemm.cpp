#include "apps/bench_gemm.hpp"

#include <cstdio>

#include "apps/bench_check.hpp"
#include "apps/bench_measure.hpp"
#include "apps/bench_options.hpp"
#include "apps/launch_check.hpp"
#include "apps/progress.hpp"
#include "apps/run_start.hpp"
#include "device/arena.hpp"
#include "model/layout.hpp"
#include "ops/verb_cost.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "Times the matrix products of a model, each with the shapes of one pass (leaves x experts x rows x in x out), "
    "forward\n"
    "and backward, and large square products, the peak: the faster of this program's own verbs and, on the cpu, of\n"
    "oneDNN's own threading. Products are GFLOP/s of all ranks together; 2 FLOPs per multiply-add. Samples of every "
    "result are "
    "compared\n"
    "with a plain loop, whose inputs are rounded as --precision says.\n"
    "\n"
    "  vitrail-bench gemm --preset fmnist --threads 2\n"
    "  vitrail-bench gemm --model b16 --threads 2 --json\n"
    "  vitrail-bench gemm --model b16 --batch 128 --leaf-images 128 --backend cuda --precision bf16\n"
    "\n"
    "Exit codes: 0 done; 2 usage; 5 a product is wrong.";

/// Matrix products of one kind in a pass.
struct Product {
  const char* name;
  std::int64_t times;  ///< in a forward pass
  std::int64_t leaves, experts, rows, in, out;
  bool dx = true;      ///< the backward pass needs the gradient of the input
  bool exact = false;  ///< of inputs that are not rounded
};

std::vector<Product> products_of(const ModelConfig& c, const Layout& layout) {
  const std::int64_t p = layout.leaves_per_pass;
  const std::int64_t b = layout.leaf_images;
  const std::int64_t n = b * c.tokens();
  const auto sparse = static_cast<std::int64_t>(c.moe_blocks.size());
  const std::int64_t dense = c.blocks - sparse;
  const std::int64_t patch = c.patch_rows * c.patch_columns * c.channels;
  std::vector<Product> all = {{"patch embedding", 1, p, 1, b * c.patches(), patch, c.width, false},
                              {"query, key, value", 3 * c.blocks, p, 1, n, c.width, c.width},
                              {"attention output", c.blocks, p, 1, n, c.width, c.width}};
  if (dense > 0) {
    all.push_back({"MLP in", dense, p, 1, n, c.width, c.mlp_width});
    all.push_back({"MLP out", dense, p, 1, n, c.mlp_width, c.width});
  }
  if (sparse > 0) {
    const std::int64_t sources = layout.expert_parallel * p;
    const std::int64_t here = c.experts / layout.expert_parallel;
    const std::int64_t slots = n / c.group_tokens() * c.slots();
    all.push_back({"router", sparse, p, 1, n, c.width, c.experts, true, true});
    all.push_back({"experts in", sparse, sources, here, slots, c.width, c.mlp_width});
    all.push_back({"experts out", sparse, sources, here, slots, c.mlp_width, c.width});
  }
  if (c.representation > 0) all.push_back({"pre-logits", 1, p, 1, b, c.width, c.representation});
  all.push_back({"head", 1, p, 1, b, c.representation > 0 ? c.representation : c.width, c.classes});
  return all;
}

struct Timed {
  Rate forward, backward;  // GFLOP/s of all ranks
};

Timed time_product(const Machine& machine, const Product& s, double budget_s) {
  Ops& ops = machine.ops();
  Device& device = machine.device();
  Communicator& world = machine.world();
  const Dtype real = ops.real();
  const Dtype stored = s.exact ? real : ops.stored();
  const Dtype stored_weights = s.exact ? real : ops.stored_weights();
  const auto lay_out = [&](Arena& arena) {
    const Tensor x = arena.allocate(stored, {s.leaves, s.experts, s.rows, s.in});
    const Tensor w = arena.allocate(stored_weights, {s.experts, s.in, s.out});
    const Tensor b = arena.allocate(real, {s.experts, s.out});
    const Tensor y = arena.allocate(stored, {s.leaves, s.experts, s.rows, s.out});
    const Tensor dx = s.dx ? arena.allocate(stored, {s.leaves, s.experts, s.rows, s.in}) : Tensor();
    const Tensor dw = arena.allocate(real, {s.experts, s.in, s.out});
    const Tensor db = arena.allocate(real, {s.experts, s.out});
    fill_with_noise(device, x, 1);
    fill_with_noise(device, w, 2);
    fill_with_noise(device, b, 3);
    // y serves as the incoming gradient of the backward product.
    return std::pair{
        LinearForward{.x = x, .w = w, .b = b, .residual = {}, .y = y, .exact = s.exact},
        LinearBackward{.dy = y, .x = x, .w = w, .dresidual = {}, .dx = dx, .dw = dw, .db = db, .exact = s.exact}};
  };
  Arena measured("a product");
  (void)lay_out(measured);
  Arena arena("a product", device, measured.bytes());
  const auto [forward, backward] = lay_out(arena);

  const auto rate = [&](double gflop, const auto& call) {
    world.barrier();
    const std::vector<double> seconds = time_in_queue(device, budget_s, call);
    return Rate{sum_over_ranks(world, gflop / median(seconds)),
                sum_over_ranks(world, gflop / *std::min_element(seconds.begin(), seconds.end()))};
  };
  const Precision rounded = s.exact ? Precision::f32 : ops.precision();
  Timed timed;
  timed.forward = rate(1e-9 * cost_of(forward).flops, [&, &f = forward] { ops.linear_forward(f); });
  check_linear(device, forward, rounded, text(s.name, ", forward"));
  timed.backward = rate(1e-9 * cost_of(backward).flops, [&, &k = backward] { ops.linear_backward(k); });
  check_linear(device, backward, rounded, text(s.name, ", backward"));
  return timed;
}

std::string cells(const char* format, const char* name, const std::string& shape, double gflops, double share) {
  char line[160];
  std::snprintf(line, sizeof line, format, name, shape.c_str(), gflops, 100 * share);
  return line;
}

void report_squares(const Log& log, const std::vector<SquareGemm>& squares, double ceiling, bool json) {
  if (!json) log.info("square products                                                      GFLOP/s   of peak");
  for (const SquareGemm& one : squares) {
    const std::string shape = text(one.side, " x ", one.side, " x ", one.side);
    for (const auto& [name, rate] : {std::pair{"linear_forward", one.verb}, std::pair{"oneDNN", one.library}}) {
      if (rate.median == 0) continue;  // there is no oneDNN on a GPU
      if (json) {
        log.info(Json::object()
                     .set("bench", "gemm")
                     .set("kind", "square")
                     .set("by", name)
                     .set("side", one.side)
                     .set("gflops", rate.median)
                     .set("gflops_best", rate.best)
                     .set("peak_gflops", ceiling)
                     .set("fraction_of_peak", rate.median / ceiling)
                     .dump());
      } else {
        log.info(cells("  %-30s %-30s %10.1f %7.1f %%", name, shape, rate.median, rate.median / ceiling));
      }
    }
  }
}

void report_product(const Log& log, const Product& s, const char* verb, const Rate& rate, double ceiling, bool json) {
  if (json) {
    log.info(Json::object()
                 .set("bench", "gemm")
                 .set("kind", "product")
                 .set("name", s.name)
                 .set("verb", verb)
                 .set("times_per_pass", s.times)
                 .set("leaves", s.leaves)
                 .set("experts", s.experts)
                 .set("rows", s.rows)
                 .set("in", s.in)
                 .set("out", s.out)
                 .set("gflops", rate.median)
                 .set("gflops_best", rate.best)
                 .set("peak_gflops", ceiling)
                 .set("fraction_of_peak", rate.median / ceiling)
                 .set("checked", true)
                 .dump());
    return;
  }
  const std::string shape = text(s.leaves, " x ", s.experts, " x ", s.rows, " x ", s.in, " x ", s.out);
  log.info(cells("  %-30s %-30s %10.1f %7.1f %%", text(s.name, ", ", verb).c_str(), shape, rate.median,
                 rate.median / ceiling));
}

}  // namespace

int bench_gemm(MpiSession* session, int argc, const char* const* argv) {
  BenchSettings settings;
  Options options("vitrail-bench gemm", kManual);
  add_bench_model_options(options, settings);
  if (!options.parse(argc, argv) || session == nullptr) return 0;
  apply_bench_options(options, settings);
  const RunConfig& config = settings.run;
  VITRAIL_EXPECT(config.backend != "reference", ExitCode::usage, text("--backend ", config.backend),
                 "the products are those of the cpu and cuda back ends", "Leave it out");
  const Log log("vitrail-bench", session->rank(), session->size());
  check_launch(*session, log, options, {config.threads, settings.machine.oversubscribe, {}});
  Activity activity;
  const Machine machine(*session, config, settings.machine, activity);
  const std::int64_t ranks = session->size();
  const Layout layout = make_layout(config, session->rank(), session->size());
  const auto threads = static_cast<int>(config.threads);

  const std::vector<SquareGemm> squares = measure_squares(machine, threads, settings.seconds);
  const double ceiling = gemm_ceiling(squares);
  const Rate copy = measure_copy(machine, threads, settings.seconds);
  const std::string model = model_name(settings);
  if (settings.json) {
    log.info(Json::object()
                 .set("bench", "gemm")
                 .set("kind", "ceiling")
                 .set("model", model)
                 .set("ranks", ranks)
                 .set("threads", config.threads)
                 .set("device", machine.device().description())
                 .set("backend", config.backend)
                 .set("dtype", "f32")
                 .set("precision", config.precision)
                 .set("peak_gflops", ceiling)
                 .set("copy_GBps", copy.median)
                 .dump());
  } else {
    log.info(config.precision, " GEMM peak ", fixed(ceiling, 1), " GFLOP/s, copy bandwidth ", fixed(copy.median, 1),
             " GB/s: ", machine.device().description(), ", ", ranks, ranks == 1 ? " rank x " : " ranks x ", threads,
             threads == 1 ? " thread" : " threads", "\n");
  }
  report_squares(log, squares, ceiling, settings.json);
  if (!settings.json) {
    log.info("\n", model, ": ", layout.leaves_per_pass, layout.leaves_per_pass == 1 ? " leaf" : " leaves", " of ",
             layout.leaf_images, " images in a pass of a rank\n",
             "  product                        leaves x experts x rows x in x out  GFLOP/s   of peak");
  }
  for (const Product& product : products_of(config.model, layout)) {
    const Timed timed = time_product(machine, product, settings.seconds);
    report_product(log, product, "forward", timed.forward, ceiling, settings.json);
    report_product(log, product, "backward", timed.backward, ceiling, settings.json);
  }
  if (!settings.json) log.info("\nSamples of every result agree with a plain loop.");
  return 0;
}

}  // namespace vitrail
