#include "apps/hang_report.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <mutex>

#include <unistd.h>

#include "apps/progress.hpp"
#include "apps/rank_names.hpp"
#include "base/file.hpp"
#include "comm/process.hpp"

namespace vitrail {

namespace {

namespace fs = std::filesystem;
using Seconds = std::chrono::duration<double>;

std::string utc(std::time_t time, const char* format) {
  std::tm parts{};
  gmtime_r(&time, &parts);
  std::array<char, 64> said{};
  return {said.data(), std::strftime(said.data(), said.size(), format, &parts)};
}

/// On stderr, whole. stdout is left alone: the thread that hangs may hold it.
void say(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

RankAtRest at_rest(std::int64_t rank, const std::string& host, const Activity::Glance& seen, double timeout_s) {
  RankAtRest mine;
  mine.rank = rank;
  mine.host = host;
  mine.where = text_of(seen);
  mine.step = seen.step;
  mine.layer = seen.layer;
  mine.collectives = seen.collectives;
  mine.still_s = seen.since_s;
  mine.since = utc(std::time(nullptr) - static_cast<std::time_t>(std::lround(seen.since_s)), "%Y-%m-%d %H:%M:%S UTC");
  mine.moving = seen.since_s < timeout_s / 2;
  return mine;
}

/// Calls `work` after a time, whatever other threads are stuck in.
template <class Work>
void later(double seconds, const Work& work) {
  std::thread([seconds, work] {
    std::this_thread::sleep_for(Seconds(seconds));
    work();
  }).detach();
}

[[noreturn]] void end_process() { std::_Exit(static_cast<int>(ExitCode::hang)); }

/// MPI may hang here, too.
[[noreturn]] void end_all_ranks() {
  later(5, end_process);
  abort_all_ranks(static_cast<int>(ExitCode::hang));
  end_process();
}

std::string place_of(const RankAtRest& rank) { return rank.where + (rank.moving ? ", and still moves" : ""); }

/// "ranks 0 and 2 are in finish_all_to_all, layer 1, step 12; rank 3 is in ..."; the largest groups first.
std::string where_they_are(const std::vector<RankAtRest>& ranks) {
  constexpr std::size_t kMostGroups = 4;
  std::map<std::string, std::vector<std::int64_t>> by_place;
  for (const RankAtRest& one : ranks) by_place[place_of(one)].push_back(one.rank);
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> groups(by_place.begin(), by_place.end());
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  std::string said;
  for (std::size_t i = 0; i < std::min(groups.size(), kMostGroups); ++i) {
    const auto& [where, members] = groups[i];
    said += text(i == 0 ? "" : "; ", rank_names(members), members.size() == 1 ? " is " : " are ", where);
  }
  if (groups.size() > kMostGroups) said += text("; and ", groups.size() - kMostGroups, " other places");
  return said;
}

}  // namespace

Json to_json(const RankAtRest& rank) {
  return Json::object()
      .set("rank", rank.rank)
      .set("host", rank.host)
      .set("where", rank.where)
      .set("step", rank.step)
      .set("layer", rank.layer)
      .set("collectives", rank.collectives)
      .set("still_s", rank.still_s)
      .set("since", rank.since)
      .set("moving", rank.moving);
}

RankAtRest rank_at_rest(const Json& json) {
  RankAtRest rank;
  rank.rank = json.at("rank").as_integer();
  rank.host = json.at("host").as_string();
  rank.where = json.at("where").as_string();
  rank.step = json.at("step").as_integer();
  rank.layer = json.at("layer").as_integer();
  rank.collectives = json.at("collectives").as_integer();
  rank.still_s = json.at("still_s").as_real();
  rank.since = json.at("since").as_string();
  rank.moving = json.at("moving").as_bool();
  return rank;
}

std::string hang_line(const RankAtRest& rank) {
  return text("hang: ", rank.where, " for ", duration(rank.still_s), ", since ", rank.since, " (collective ",
              rank.collectives, ")", rank.moving ? "; asked by another rank" : "");
}

std::string hang_summary(const std::vector<std::string>& hosts, const std::vector<std::optional<RankAtRest>>& answers) {
  std::vector<RankAtRest> here;
  std::vector<std::int64_t> silent;
  for (std::size_t rank = 0; rank < answers.size(); ++rank) {
    if (answers[rank]) {
      here.push_back(*answers[rank]);
    } else {
      silent.push_back(static_cast<std::int64_t>(rank));
    }
  }
  if (here.empty()) return "no progress (no rank gave an answer)";
  const auto fewer = [](const RankAtRest& a, const RankAtRest& b) { return a.collectives < b.collectives; };
  const auto [least, most] = std::minmax_element(here.begin(), here.end(), fewer);
  double still_s = 0;
  for (const RankAtRest& one : here) still_s = std::max(still_s, one.still_s);
  const std::string problem = text("no progress for ", duration(still_s), ": ");
  // Who waits for a silent rank may have done less than the others, too: only the silent ones are to blame.
  if (!silent.empty()) {
    return text(problem, rank_names_with_hosts(silent, hosts), silent.size() == 1 ? " does" : " do",
                " not answer: stopped, dead, or cut off from the run directory (", where_they_are(here), ")");
  }
  if (least->collectives == most->collectives) {
    return text(problem, "no rank is missing, all are at collective ", most->collectives, " (", where_they_are(here),
                "). The network, the file system or a device may not go on");
  }
  std::vector<std::int64_t> missing;
  std::vector<RankAtRest> late, others;
  for (const RankAtRest& one : here) {
    const bool is_late = one.collectives == least->collectives;
    (is_late ? late : others).push_back(one);
    if (is_late) missing.push_back(one.rank);
  }
  return text(problem, rank_names_with_hosts(missing, hosts), " did not arrive",
              late.size() == 1 ? text(", it is ", place_of(late.front())) : text(": ", where_they_are(late)), " (",
              where_they_are(others), ")");
}

HangWatch::HangWatch(Rules rules, Communicator& world, Activity& activity)
    : rules_(std::move(rules)), rank_(world.rank()) {
  VITRAIL_EXPECT(std::isfinite(rules_.timeout_s) && rules_.timeout_s >= 0, ExitCode::usage,
                 text("--hang-timeout ", rules_.timeout_s), "seconds are expected, or 0 for none", "");
  if (rules_.timeout_s == 0) return;
  hosts_ = world.all_gather_strings(host_name());
  const std::string start = text(utc(std::time(nullptr), "%Y%m%dT%H%M%S"), "-", getpid());
  folder_ = rules_.run_dir / ("hang-" + world.all_gather_strings(start).front());
  // File systems over a network show new files late: up to half a minute by default. A short time is asked for in
  // tests.
  patience_s_ = std::clamp(rules_.timeout_s / 10, 3.0, 60.0);
  activity.alive();
  asker_ = std::jthread([this](const std::stop_token& stop) { ask(stop); });
  watchdog_ =
      std::make_unique<Watchdog>(activity, Watchdog::Rules{rules_.timeout_s, 1.0, [this] { return asked_.load(); }},
                                 [this](const Activity::Glance& seen) { report(seen); });
}

HangWatch::~HangWatch() = default;

// In a thread of its own: a file system that hangs must not keep the watchdog from its work.
void HangWatch::ask(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock lock(mutex);
  const auto enough = [&stop] { return stop.stop_requested(); };
  while (!asked_ && !stopped.wait_for(lock, stop, Seconds(patience_s_ / 3), enough)) {
    std::error_code failed;
    asked_ = fs::exists(folder_, failed);
  }
}

fs::path HangWatch::file_of(std::int64_t rank) const {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "rank-%05lld.json", static_cast<long long>(rank));
  return folder_ / name.data();
}

std::int64_t HangWatch::answers() const {
  std::int64_t found = 0;
  std::error_code failed;
  for (fs::directory_iterator at(folder_, failed), end; !failed && at != end; at.increment(failed)) {
    if (at->path().extension() == ".json") ++found;
  }
  return found;
}

std::vector<std::optional<RankAtRest>> HangWatch::read_answers(const RankAtRest& mine) const {
  std::vector<std::optional<RankAtRest>> all(hosts_.size());
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const fs::path file = file_of(static_cast<std::int64_t>(rank));
    try {
      all[rank] = rank_at_rest(Json::parse(read_file(file, ExitCode::hang), file.string(), ExitCode::hang));
    } catch (const Error&) {
      continue;  // no answer
    }
  }
  all[static_cast<std::size_t>(rank_)] = mine;
  return all;
}

void HangWatch::report(const Activity::Glance& seen) const {
  constexpr double kTimeToEnd = 10;
  later(patience_s_ + kTimeToEnd, end_all_ranks);  // the run directory may hang as well
  const auto ranks = static_cast<std::int64_t>(hosts_.size());
  const RankAtRest mine = at_rest(rank_, hosts_[static_cast<std::size_t>(rank_)], seen, rules_.timeout_s);
  say(text(rules_.program, ": rank ", rank_, "/", ranks, " on ", mine.host, ": ", hang_line(mine), "\n"));
  try {
    fs::create_directories(folder_);
    write_file_atomically(file_of(rank_), to_json(mine).dump() + "\n", ExitCode::hang);
  } catch (const std::exception& failed) {
    say(text(rules_.program, ": rank ", rank_, "/", ranks, " on ", mine.host, ": warning: ", failed.what(), "\n"));
  }
  const Seconds pause(std::max(0.1, 1e-3 * static_cast<double>(ranks)));
  const auto deadline = std::chrono::steady_clock::now() + Seconds(patience_s_);
  while (answers() < ranks && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(pause);

  const std::vector<std::optional<RankAtRest>> all = read_answers(mine);
  const bool lowest = std::none_of(all.begin(), all.begin() + rank_, [](const auto& one) { return one.has_value(); });
  if (lowest) {
    say(text(rules_.program, ": error: ", hang_summary(hosts_, all), ". The job ends with exit code ",
             static_cast<int>(ExitCode::hang), "; what ranks said stays in ", folder_.string(), "\n"));
  } else {
    std::this_thread::sleep_for(Seconds(kTimeToEnd / 2));  // the lowest speaks, and ends all
  }
  end_all_ranks();
}

}  // namespace vitrail
