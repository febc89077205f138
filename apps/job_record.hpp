#pragma once
// RUN/jobs/0001.json, 0002.json ...: what every job that worked on a run was: where it ran, with what, and how it
// ended. A run is often a chain of jobs; metrics.jsonl is what they computed, and is the same however the chain was
// cut.
//
// A record that cannot be written is a warning: no training ends for it.

#include <cstdint>
#include <filesystem>

#include "base/json.hpp"
#include "base/log.hpp"

namespace vitrail {

class JobRecord {
 public:
  /// Writes the record of the next number, `start` with "job" in front. For rank 0.
  JobRecord(const Log& log, const std::filesystem::path& run_dir, const Json& start);
  /// Adds the member "end".
  void finish(Json end);
  [[nodiscard]] std::int64_t number() const noexcept { return number_; }

 private:
  void write() const;

  const Log& log_;
  std::int64_t number_ = 1;
  std::filesystem::path path_;
  Json record_;
};

/// Sums over the records of a run: "jobs", how many of them "ended" (not those that were killed, nor the one that is at
/// work), and of these "steps", "train_wall_s", "data_wait_s", "checkpoint_s". Records that cannot be read count as
/// jobs that did not end.
Json totals_of_jobs(const std::filesystem::path& run_dir);

/// The variables of this process that tell about a Slurm job (ids, nodes, restarts), name -> value.
Json slurm_variables();

}  // namespace vitrail
