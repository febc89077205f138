#pragma once
// When the time of a job is over, as users and Slurm say it.

#include <filesystem>
#include <optional>
#include <string>

namespace vitrail {

/// Seconds of "3600" (seconds), "90m" (also s, h, d), and of what Slurm writes: "30:00" (minutes:seconds), "1:30:00",
/// "2-12" (days-hours), "2-12:30", "2-00:00:00". Error (usage) for anything else, and for no time at all.
double duration_of(const std::string& words);

/// Seconds since 1970 of "2026-11-29T21:34:13" in local time, as squeue writes it; nothing for "Unknown" and the like.
std::optional<double> moment_of(const std::string& words);

/// Seconds since 1970, now.
double unix_now();
/// Local time of a moment: "2026-11-29 21:34:13".
std::string local_time(double unix_s);

/// The moment at which the job will be killed.
struct EndOfJob {
  double unix_s = 0;   ///< seconds since 1970
  std::string source;  ///< who says so: "--time-limit 90m", "SLURM_JOB_END_TIME", "squeue"
};

/// The end by `time_limit` (empty: not given) from `start_unix_s` on, else by SLURM_JOB_END_TIME, else what squeue says
/// of SLURM_JOB_ID; nothing when nobody knows. squeue is asked once, for `patience_s` at most, with its answer in a
/// file in `folder`; what goes wrong there only means that the end is not known. For one rank to ask.
std::optional<EndOfJob> find_end_of_job(const std::string& time_limit, double start_unix_s,
                                        const std::filesystem::path& folder, double patience_s = 5);

}  // namespace vitrail
