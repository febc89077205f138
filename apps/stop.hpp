#pragma once
// Stopping in time. A job ends before its work is done for one of these causes:
//
//   a signal     TERM, USR1, USR2 or HUP reaches one of its ranks (scancel, pre-emption, --signal of sbatch)
//   the clock    too little time is left for another step and the save that must follow (apps/time_limit.hpp)
//   a file       somebody has made RUN/stop
//
// All of them end alike: the ranks agree at the boundary between two steps, save, and return ExitCode::requeue.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "apps/time_limit.hpp"
#include "base/timer.hpp"
#include "comm/communicator.hpp"

namespace vitrail {

/// From here on TERM, USR1, USR2 and HUP are noted and change nothing else. A HUP that is ignored already (nohup) stays
/// ignored. Belongs before MPI_Init: a signal that comes earlier ends the process.
void catch_stop_signals() noexcept;
/// The first of them that came; 0: none yet.
int stop_signal() noexcept;
/// From here on they are ignored: a process that is about to return its exit code must not die of a second one.
void ignore_stop_signals() noexcept;

/// What the clock's rule goes by. Times in seconds.
struct TimeLeft {
  double left_s = 0;          ///< until the end of the job
  double longest_step_s = 0;  ///< of this job's steps
  std::int64_t steps = 1;     ///< that are done before the job can save, if it does not stop now
  double save_s = 0;          ///< what a save takes
  std::int64_t saves = 1;     ///< 2 when one is in flight already
};
/// Whether it is time to stop: the steps and the saves, with a margin of half their time and two seconds, do not fit.
bool time_is_up(const TimeLeft& time);

/// What a rank knows between two steps.
struct Boundary {
  bool save_failed = false;  ///< that in the background
  TimeLeft time;             ///< but left_s, which agree() finds out
};

/// What all ranks do, the same on each.
struct Orders {
  bool stop = false;
  std::string why;           ///< when it must stop: for the log
  bool save = false;         ///< the minutes between saves are over
  bool save_failed = false;  ///< on at least one rank
};

/// Looks for all causes. Rank 0 alone looks at clock and file: clocks differ, and one look at a file system is enough.
class StopCauses {
 public:
  /// `world` outlives it. `end` counts on rank 0 alone. minutes_between_saves: 0: none by the clock.
  StopCauses(Communicator& world, const std::filesystem::path& run_dir, std::optional<EndOfJob> end,
             double minutes_between_saves);

  /// Collective, between any two steps: one small exchange of integers.
  Orders agree(Boundary boundary);
  /// A save was begun.
  void saved() { since_save_.restart(); }
  /// The job has stopped and saved: removes RUN/stop, on rank 0.
  void obeyed() const;

 private:
  bool file_is_there();

  Communicator& world_;
  std::filesystem::path file_;
  std::optional<EndOfJob> end_;
  double seconds_between_saves_;
  Stopwatch since_save_;
  Stopwatch since_look_;
  bool looked_ = false;
};

}  // namespace vitrail
