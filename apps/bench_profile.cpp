#include "apps/bench_profile.hpp"

#include <algorithm>
#include <cstdio>

namespace vitrail {

Profile::Profile(const CountingOps& ops, const CountingCommunicator& world, double steps, double seconds)
    : step_s(seconds / steps) {
  double named_s = 0;
  const auto add = [&](std::string name, std::int64_t calls, double line_s, double line_flops, double bytes,
                       bool between_ranks) {
    if (calls == 0) return;
    lines.push_back({std::move(name), static_cast<double>(calls) / steps, line_s / steps, line_flops / steps,
                     bytes / steps, between_ranks});
    named_s += line_s / steps;
    flops += line_flops / steps;
  };
  for (const VerbCount& one : ops.counts()) {
    add(std::string(one.verb), one.calls, one.seconds, one.flops, one.bytes, false);
  }
  for (const CommCount& one : world.counts()) add(one.name, one.calls, one.seconds, 0, one.bytes, true);
  std::stable_sort(lines.begin(), lines.end(),
                   [](const ProfileLine& a, const ProfileLine& b) { return a.seconds > b.seconds; });
  lines.push_back({.name = "between the calls", .seconds = std::max(0.0, step_s - named_s)});
}

namespace {

/// Share of the ceiling that binds a verb: GEMM peak for matrix products, copy bandwidth for the rest. 0: has none.
double share_of_ceiling(const ProfileLine& line, const RankCeilings& ceilings) {
  if (line.moves_between_ranks || line.seconds <= 0) return 0;
  return line.flops > 0 ? 1e-9 * line.flops / line.seconds / ceilings.gflops
                        : 1e-9 * line.bytes / line.seconds / ceilings.copy_GBps;
}

std::string cell(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

void print_profile(const Log& log, const Profile& profile, const RankCeilings& ceilings) {
  log.info("verb (rank 0, per step)         calls        ms    share   GFLOP/s      GB/s   of its ceiling");
  for (const ProfileLine& line : profile.lines) {
    const bool rated = line.seconds > 0;
    const double share = share_of_ceiling(line, ceilings);
    char row[192];
    std::snprintf(
        row, sizeof row, "%-30s %6s %9.3f %6.1f %% %9s %9s %8s %s", line.name.c_str(),
        line.calls > 0 ? cell("%.0f", line.calls).c_str() : "", 1e3 * line.seconds, 100 * line.seconds / profile.step_s,
        rated && line.flops > 0 ? cell("%.1f", 1e-9 * line.flops / line.seconds).c_str() : "",
        rated && line.bytes > 0 && line.flops == 0 ? cell("%.2f", 1e-9 * line.bytes / line.seconds).c_str() : "",
        share > 0 ? cell("%.1f %%", 100 * share).c_str() : "", share > 0 ? (line.flops > 0 ? "peak" : "copy") : "");
    std::string shown = row;
    shown.erase(shown.find_last_not_of(' ') + 1);
    log.info(shown);
  }
}

Json to_json(const Profile& profile, const RankCeilings& ceilings) {
  Json lines = Json::array();
  for (const ProfileLine& line : profile.lines) {
    Json one = Json::object();
    one.set("name", line.name)
        .set("calls", line.calls)
        .set("seconds", line.seconds)
        .set("share", line.seconds / profile.step_s);
    if (line.flops > 0) one.set("gflop", 1e-9 * line.flops).set("gflops", 1e-9 * line.flops / line.seconds);
    if (line.bytes > 0) one.set("bytes", line.bytes).set("GBps", 1e-9 * line.bytes / line.seconds);
    const double share = share_of_ceiling(line, ceilings);
    if (share > 0) one.set("ceiling", line.flops > 0 ? "gemm" : "copy").set("fraction_of_ceiling", share);
    lines.push_back(std::move(one));
  }
  return lines;
}

}  // namespace vitrail
