#pragma once
// What a job says when it hangs: where every rank is, and which ones did not arrive.
//
// When nothing moves, MPI may be stuck and a node may be lost, so that ranks cannot ask each other. They leave word in
// a folder of the run directory instead, RUN/hang-START/rank-00003.json, a folder that is made only then and stays for
// the reader. Each rank writes its own file, and waits for those of the others.

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/activity.hpp"
#include "base/json.hpp"
#include "base/watchdog.hpp"
#include "comm/communicator.hpp"

namespace vitrail {

/// What a rank says of itself.
struct RankAtRest {
  std::int64_t rank = 0;
  std::string host;
  std::string where;             ///< "in finish_all_to_all, layer 1, step 12"
  std::int64_t step = 0;         ///< as Activity::Glance
  std::int64_t layer = -1;       ///< as Activity::Glance
  std::int64_t collectives = 0;  ///< as Activity::Glance
  double still_s = 0;            ///< since its last mark
  std::string since;             ///< when that was: "2026-11-29 14:03:22 UTC"
  bool moving = false;           ///< it only answers the others, and would not have called this a hang
};
Json to_json(const RankAtRest& rank);
RankAtRest rank_at_rest(const Json& json);

/// Of one rank: "hang: in finish_all_to_all, layer 1, step 12 for 31 s, since 2026-11-29 14:03:22 UTC (collective
/// 512)".
std::string hang_line(const RankAtRest& rank);

/// Of all: who did not arrive, and where the others wait for it. These are the ranks that gave no answer; or else those
/// that have entered fewer collectives than others. `hosts` and `answers` are in the order of ranks.
std::string hang_summary(const std::vector<std::string>& hosts, const std::vector<std::optional<RankAtRest>>& answers);

/// Ends the job with ExitCode::hang when this rank's Activity has not moved for a time: prints hang_line() on every
/// rank, hang_summary() on the lowest that answers, and aborts all ranks.
class HangWatch {
 public:
  struct Rules {
    std::string program;            ///< the name printed
    std::filesystem::path run_dir;  ///< seen by all ranks; need not be there yet
    double timeout_s = 1800;        ///< 0: nothing is watched
  };
  /// Collective. `activity` outlives this object; its time counts from here.
  HangWatch(Rules rules, Communicator& world, Activity& activity);
  ~HangWatch();

 private:
  void ask(const std::stop_token& stop);
  void report(const Activity::Glance& seen) const;
  [[nodiscard]] std::filesystem::path file_of(std::int64_t rank) const;
  [[nodiscard]] std::int64_t answers() const;
  [[nodiscard]] std::vector<std::optional<RankAtRest>> read_answers(const RankAtRest& mine) const;

  Rules rules_;
  std::int64_t rank_ = 0;
  std::vector<std::string> hosts_;
  std::filesystem::path folder_;
  double patience_s_ = 0;           // for the answers of the others
  std::atomic<bool> asked_{false};  // another rank has made the folder
  std::jthread asker_;
  std::unique_ptr<Watchdog> watchdog_;  // last: it uses the others
};

}  // namespace vitrail
