#include "apps/bench_profile.hpp"

#include <algorithm>
#include <cstdio>

namespace vitrail {

namespace {

bool slower(const ProfileLine& a, const ProfileLine& b) { return a.seconds > b.seconds; }

bool begins_with_any(std::string_view verb, std::initializer_list<std::string_view> beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(), [&](std::string_view one) { return verb.starts_with(one); });
}

/// The largest of the times that FLOPs, bytes and exponentials take at best.
void hold_line(ProfileLine& line, const RankCeilings& ceilings) {
  if (line.kind.empty() || line.seconds <= 0) return;
  const double gemm_s = 1e-9 * line.flops / ceilings.gflops;
  const double copy_s = 1e-9 * line.bytes / ceilings.copy_GBps;
  line.ceiling_s = line.flops > 0 ? gemm_s : copy_s;
  line.bound = line.flops > 0 ? "gemm" : "copy";
  if (ceilings.exponentials_per_s <= 0) return;
  const double exponentials_s = line.exponentials / ceilings.exponentials_per_s;
  line.ceiling_s = std::max({gemm_s, copy_s, exponentials_s});
  line.bound = line.ceiling_s == gemm_s ? "gemm" : line.ceiling_s == copy_s ? "copy" : "exponentials";
}

}  // namespace

std::string kind_of_verb(std::string_view verb) {
  if (verb == "attention_forward") return "attention forward";
  if (verb == "attention_backward") return "attention backward";
  if (begins_with_any(verb, {"linear_", "mlp_", "qkv_", "mix_tokens_", "mix_slots_", "soft_router_"})) {
    return "matrix products";
  }
  if (verb.starts_with("layernorm_")) return "layer norms";
  if (begins_with_any(verb, {"gather_rows_", "combine_rows_"})) return "dispatch and combine";
  if (begins_with_any(verb, {"route_", "router_", "shuffle_experts", "map_slots", "normalize_gates_", "count_assign",
                             "random_normal"})) {
    return "routing";
  }
  if (begins_with_any(verb, {"adamw_", "sgd_", "adafactor_", "running_average", "accumulate", "block_square_sums",
                             "clip_", "all_finite"})) {
    return "update";
  }
  return "everything else";
}

Profile::Profile(CountingOps& ops, const CountingCommunicator& world, double steps, double seconds)
    : step_s(seconds / steps) {
  double named_s = 0;
  const auto add = [&](ProfileLine line, std::int64_t calls) {
    if (calls == 0) return;
    line.calls = static_cast<double>(calls) / steps;
    for (double* value : {&line.seconds, &line.flops, &line.bytes, &line.exponentials}) *value /= steps;
    named_s += line.seconds;
    flops += line.flops;
    lines.push_back(std::move(line));
  };
  for (const VerbCount& one : ops.counts()) {
    add({.name = std::string(one.verb),
         .kind = kind_of_verb(one.verb),
         .seconds = one.seconds,
         .flops = one.flops,
         .bytes = one.bytes,
         .exponentials = one.exponentials},
        one.calls);
  }
  for (const CommCount& one : world.counts()) {
    add({.name = one.name, .kind = {}, .seconds = one.seconds, .bytes = one.bytes}, one.calls);
  }
  std::stable_sort(lines.begin(), lines.end(), slower);
  lines.push_back({.name = "between the calls", .kind = {}, .seconds = std::max(0.0, step_s - named_s)});
}

void Profile::hold_against(const RankCeilings& ceilings) {
  kinds.clear();
  for (ProfileLine& line : lines) {
    hold_line(line, ceilings);
    if (line.kind.empty()) continue;
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const ProfileLine& one) { return one.name == line.kind; });
    if (kind == kinds.end()) {
      kinds.push_back({.name = line.kind, .kind = line.kind, .bound = line.bound});
      kind = kinds.end() - 1;
    }
    kind->calls += line.calls;
    kind->seconds += line.seconds;
    kind->flops += line.flops;
    kind->bytes += line.bytes;
    kind->exponentials += line.exponentials;
    kind->ceiling_s += line.ceiling_s;
  }
  std::stable_sort(kinds.begin(), kinds.end(), slower);
}

namespace {

std::string cell(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

const char* shown_bound(const ProfileLine& line) {
  if (line.ceiling_s <= 0) return "";
  return std::string_view(line.bound) == "gemm" ? "peak" : line.bound;
}

}  // namespace

void print_profile(const Log& log, const std::vector<ProfileLine>& lines, double step_s, const std::string& title,
                   ProfileUnits units) {
  const double scale = units == ProfileUnits::tera ? 1e-12 : 1e-9;
  char row[192];
  std::snprintf(row, sizeof row, "%-30s %6s %9s %8s %9s %9s   %s", title.c_str(), "calls", "ms", "share",
                units == ProfileUnits::tera ? "TFLOP/s" : "GFLOP/s", units == ProfileUnits::tera ? "TB/s" : "GB/s",
                "of its ceiling");
  log.info(row);
  for (const ProfileLine& line : lines) {
    const bool rated = line.seconds > 0;
    std::snprintf(
        row, sizeof row, "%-30s %6s %9.3f %6.1f %% %9s %9s %8s %s", line.name.c_str(),
        line.calls > 0 ? cell("%.0f", line.calls).c_str() : "", 1e3 * line.seconds, 100 * line.seconds / step_s,
        rated && line.flops > 0 ? cell("%.1f", scale * line.flops / line.seconds).c_str() : "",
        rated && line.bytes > 0 && line.flops == 0 ? cell("%.2f", scale * line.bytes / line.seconds).c_str() : "",
        line.ceiling_s > 0 ? cell("%.1f %%", 100 * line.ceiling_s / line.seconds).c_str() : "", shown_bound(line));
    std::string shown = row;
    shown.erase(shown.find_last_not_of(' ') + 1);
    log.info(shown);
  }
}

Json to_json(const std::vector<ProfileLine>& lines, double step_s) {
  Json all = Json::array();
  for (const ProfileLine& line : lines) {
    Json one = Json::object();
    one.set("name", line.name)
        .set("calls", line.calls)
        .set("seconds", line.seconds)
        .set("share", line.seconds / step_s);
    if (line.flops > 0) one.set("gflop", 1e-9 * line.flops).set("gflops", 1e-9 * line.flops / line.seconds);
    if (line.bytes > 0) one.set("bytes", line.bytes).set("GBps", 1e-9 * line.bytes / line.seconds);
    if (line.exponentials > 0) one.set("exponentials", line.exponentials);
    if (line.ceiling_s > 0) one.set("ceiling", line.bound).set("fraction_of_ceiling", line.ceiling_s / line.seconds);
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace vitrail
