#include "apps/eval_sweep.hpp"

#include <algorithm>
#include <cmath>

#include "apps/csv.hpp"
#include "apps/line_chart.hpp"
#include "apps/progress.hpp"
#include "apps/run_options.hpp"

namespace vitrail {

namespace {

/// The curves of a sweep: what is the same for all capacities.
struct Curve {
  ModelConfig model;
  std::string order;
};

std::vector<Curve> curves_of(const ModelConfig& model, const SweepOptions& sweep) {
  if (model.router.kind != RouterKind::top_k) return {{model, name_of(model.router.kind)}};
  std::vector<Curve> curves;
  for (const std::int64_t selected : sweep.selected) {
    for (const std::string& order : sweep.orders) {
      curves.push_back({model, order});
      curves.back().model.router.selected = selected;
      curves.back().model.router.order = token_order_of(order);
    }
  }
  return curves;
}

/// The model with another capacity; nothing, and a note, where it cannot be.
std::optional<ModelConfig> with_capacity(ModelConfig model, double factor, const Log& log) {
  model.router.capacity.factor = factor;
  model.router.capacity.slots.reset();
  try {
    model.check();
  } catch (const Error& error) {
    log.info("left out: ", error.fault().problem);
    return std::nullopt;
  }
  return model;
}

void expect_capacities(const char* option, const std::vector<double>& factors, const ModelConfig& model) {
  VITRAIL_EXPECT(!model.moe_blocks.empty(), ExitCode::usage, text(option, " of a dense model"), "it has no experts",
                 "");
  VITRAIL_EXPECT(model.router.kind != RouterKind::soft, ExitCode::usage, text(option, " of a Soft MoE"),
                 "its slots are parameters, as many as it was trained with", "");
  for (const double factor : factors) {
    VITRAIL_EXPECT(std::isfinite(factor) && factor > 0, ExitCode::usage,
                   text("a capacity factor of ", factor, " in ", option), "it must be positive", "");
  }
}

Json row_of(const Curve& curve, const ModelConfig& model, double factor, const Metrics& metrics) {
  const double flops = forward_flops_with_slots(model);
  return Json::object()
      .set("selected", model.choices())
      .set("order", curve.order)
      .set("capacity_factor", factor)
      .set("slots", model.slots())
      .set("accuracy", metrics.accuracy())
      .set("loss", metrics.total_loss())
      .set("drop_rate", metrics.drop_rate())
      .set("processed", metrics.processed_rate())
      .set("flops_per_image", flops)
      .set("flops_relative", flops / forward_flops_of_dense_twin(model));
}

void print_row(const Json& row, const Log& log) {
  char line[160];
  std::snprintf(line, sizeof line, "%3lld   %-15s   %8g   %5lld   %6.2f %%   %8.4f   %5.1f %%     %5.1f %%   %6.2f %%",
                static_cast<long long>(row.at("selected").as_integer()), row.at("order").as_string().c_str(),
                row.at("capacity_factor").as_real(), static_cast<long long>(row.at("slots").as_integer()),
                100 * row.at("accuracy").as_real(), row.at("loss").as_real(), 100 * row.at("drop_rate").as_real(),
                100 * row.at("processed").as_real(), 100 * row.at("flops_relative").as_real());
  log.info(line);
}

/// The points of one curve. Capacities that come out at the same slots as the one before are the same model.
void evaluate_curve(const Bench& bench, const Curve& curve, const std::vector<double>& factors, const Log& log,
                    Json& rows) {
  std::int64_t slots = 0;
  Metrics metrics;
  for (const double factor : factors) {
    const std::optional<ModelConfig> model = with_capacity(curve.model, factor, log);
    if (!model) continue;
    if (model->slots() != slots) metrics = evaluate(bench, *model);
    slots = model->slots();
    rows.push_back(row_of(curve, *model, factor, metrics));
    print_row(rows.items().back(), log);
  }
}

/// Colours say the order of tokens, strokes say K.
std::string chart_of(const Bench& bench, const std::vector<Curve>& curves, const Json& rows) {
  LineChart chart{.title = "Accuracy against capacity: " + bench.dataset.name(),
                  .x_label = "capacity factor",
                  .y_label = "accuracy, %",
                  .log_x = true,
                  .lines = {}};
  std::vector<std::string> orders;
  std::vector<std::int64_t> choices;
  const auto place_in = [](auto& seen, const auto& value) {
    const auto found = std::find(seen.begin(), seen.end(), value);
    const auto place = static_cast<int>(found - seen.begin());
    if (found == seen.end()) seen.push_back(value);
    return place;
  };
  for (const Curve& curve : curves) {
    const std::int64_t selected = curve.model.choices();
    const bool top_k = curve.model.router.kind == RouterKind::top_k;
    ChartLine line{.label = top_k ? text("K = ", selected, ", ", curve.order) : curve.order,
                   .points = {},
                   .colour = place_in(orders, curve.order),
                   .stroke = place_in(choices, selected)};
    for (const Json& row : rows.items()) {
      if (row.at("selected").as_integer() != selected || row.at("order").as_string() != curve.order) continue;
      line.points.emplace_back(row.at("capacity_factor").as_real(), 100 * row.at("accuracy").as_real());
    }
    chart.lines.push_back(std::move(line));
  }
  return to_svg(chart);
}

}  // namespace

void add_sweep_options(Options& options, SweepOptions& sweep) {
  options
      .add("capacity-table", sweep.capacity_table, "X...",
           "evaluate at these capacity factors, in vanilla and in prioritized order, and print a table")
      .only_on_command_line();
  options.section("Accuracy against capacity");
  options
      .add("sweep", sweep.sweep, "",
           "evaluate at many capacities, for several K and orders of tokens: a table, a CSV file and a chart")
      .only_on_command_line();
  options.add("sweep-capacities", sweep.capacities, "X...", "capacity factors").only_on_command_line();
  options.add("sweep-selected", sweep.selected, "K...", "experts per token").only_on_command_line();
  options.add("sweep-orders", sweep.orders, "ORDER...", "who takes slots first")
      .choices(token_order_names())
      .only_on_command_line();
  options.add("sweep-csv", sweep.csv, "FILE", "the table; default: sweep.csv in the run directory")
      .only_on_command_line();
  options.add("sweep-svg", sweep.svg, "FILE", "the chart; default: sweep.svg in the run directory")
      .only_on_command_line();
}

void resolve(SweepOptions& sweep, const Options& options, const RunConfig& config) {
  if (!sweep.capacity_table.empty()) {
    expect_capacities("--capacity-table", sweep.capacity_table, config.model);
    VITRAIL_EXPECT(config.model.router.kind == RouterKind::top_k, ExitCode::usage,
                   text("--capacity-table with --router ", name_of(config.model.router.kind)),
                   "it compares orders of tokens, and only tokens that choose experts have one",
                   "--sweep draws its one curve");
  }
  if (!sweep.sweep) {
    for (const char* option : {"sweep-capacities", "sweep-selected", "sweep-orders", "sweep-csv", "sweep-svg"}) {
      VITRAIL_EXPECT(!options.given(option), ExitCode::usage, text("--", option, " without --sweep"),
                     "it says how to sweep", "Add --sweep");
    }
    return;
  }
  expect_capacities("--sweep", sweep.capacities, config.model);
  for (const std::int64_t selected : sweep.selected) {
    if (config.model.router.kind != RouterKind::top_k) break;
    VITRAIL_EXPECT(selected >= 1 && selected <= config.model.experts, ExitCode::usage,
                   text("--sweep-selected ", selected), text("the model has ", config.model.experts, " experts"),
                   text("Use 1 to ", config.model.experts));
  }
  for (const std::filesystem::path& file : {sweep.csv, sweep.svg}) expect_folder_of(file);
  std::sort(sweep.capacities.begin(), sweep.capacities.end());
  if (config.run_dir.empty()) return;
  if (sweep.csv.empty()) sweep.csv = config.run_dir / "sweep.csv";
  if (sweep.svg.empty()) sweep.svg = config.run_dir / "sweep.svg";
}

Json evaluate_capacity_table(const Bench& bench, const std::vector<double>& factors, const Log& log) {
  log.info("");
  log.info("capacity   slots   vanilla   dropped   prioritized   dropped     (test accuracy; choices dropped)");
  Json rows = Json::array();
  for (const double factor : factors) {
    std::optional<ModelConfig> model = with_capacity(bench.config.model, factor, log);
    if (!model) continue;
    std::string line;
    Json row = Json::object().set("capacity_factor", factor).set("slots", model->slots());
    for (const TokenOrder order : {TokenOrder::vanilla, TokenOrder::prioritized}) {
      model->router.order = order;
      const Metrics metrics = evaluate(bench, *model);
      char cells[64];
      std::snprintf(cells, sizeof cells, "%*.2f %%   %5.1f %%", order == TokenOrder::vanilla ? 7 : 12,
                    100 * metrics.accuracy(), 100 * metrics.drop_rate());
      line += cells;
      row.set(name_of(order), to_json(metrics));
    }
    char head[64];
    std::snprintf(head, sizeof head, "%8.2f   %5lld", factor, static_cast<long long>(model->slots()));
    log.info(head, line);
    rows.push_back(std::move(row));
  }
  return rows;
}

Json evaluate_sweep(const Bench& bench, const SweepOptions& sweep, const Log& log) {
  log.info("");
  log.info("  K   order             capacity   slots   accuracy       loss   dropped   processed   FLOPs of dense");
  const std::vector<Curve> curves = curves_of(bench.config.model, sweep);
  Json rows = Json::array();
  for (const Curve& curve : curves) evaluate_curve(bench, curve, sweep.capacities, log, rows);
  VITRAIL_EXPECT(!rows.items().empty(), ExitCode::usage, "no capacity of the sweep gives a slot",
                 "every expert needs at least one", "Raise --sweep-capacities");
  if (!sweep.csv.empty()) write_result(bench, sweep.csv, to_csv(rows));
  if (!sweep.svg.empty()) write_result(bench, sweep.svg, chart_of(bench, curves, rows));
  for (const std::filesystem::path& file : {sweep.csv, sweep.svg}) {
    if (!file.empty()) log.info("written: ", file.string());
  }
  return rows;
}

double forward_flops_with_slots(const ModelConfig& model) {
  ModelConfig counted = model;
  counted.router.capacity.slots = model.slots();
  counted.router.capacity.factor.reset();
  return forward_flops_per_image(counted);
}

double forward_flops_of_dense_twin(const ModelConfig& model) {
  ModelConfig dense = model;
  dense.moe_blocks.clear();
  return forward_flops_per_image(dense);
}

}  // namespace vitrail
