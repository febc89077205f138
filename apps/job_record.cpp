#include "apps/job_record.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "base/file.hpp"

namespace vitrail {

namespace fs = std::filesystem;

namespace {

/// Records in RUN/jobs by their numbers.
std::vector<std::pair<std::int64_t, fs::path>> records_of(const fs::path& run_dir) {
  std::vector<std::pair<std::int64_t, fs::path>> records;
  std::error_code failed;
  for (fs::directory_iterator at(run_dir / "jobs", failed), end; !failed && at != end; at.increment(failed)) {
    const std::string stem = at->path().stem().string();
    std::int64_t number = 0;
    const auto [rest, wrong] = std::from_chars(stem.data(), stem.data() + stem.size(), number);
    const bool whole = wrong == std::errc() && rest == stem.data() + stem.size();
    if (whole && at->path().extension() == ".json") records.emplace_back(number, at->path());
  }
  return records;
}

std::string file_name(std::int64_t number) {
  const std::string digits = std::to_string(number);
  return std::string(digits.size() < 4 ? 4 - digits.size() : 0, '0') + digits + ".json";
}

}  // namespace

JobRecord::JobRecord(const Log& log, const fs::path& run_dir, const Json& start) : log_(log) {
  for (const auto& [number, path] : records_of(run_dir)) number_ = std::max(number_, number + 1);
  path_ = run_dir / "jobs" / file_name(number_);
  record_ = Json::object().set("job", number_);
  for (const JsonMember& member : start.members()) record_.set(member.key, member.value);
  write();
}

void JobRecord::finish(Json end) {
  record_.set("end", std::move(end));
  write();
}

void JobRecord::write() const {
  std::error_code failed;
  fs::create_directories(path_.parent_path(), failed);
  try {
    write_file_atomically(path_, record_.dump(2) + "\n", ExitCode::other);
  } catch (const Error& error) {
    log_.warn("no record of this job: ", error.what());
  }
}

Json totals_of_jobs(const fs::path& run_dir) {
  constexpr std::array kSums = {"train_wall_s", "data_wait_s", "checkpoint_s"};
  std::int64_t jobs = 0, ended = 0, steps = 0;
  std::array<double, kSums.size()> sums{};
  for (const auto& [number, path] : records_of(run_dir)) {
    ++jobs;
    try {
      const Json record = Json::parse(read_file(path, ExitCode::other), path.string(), ExitCode::other);
      const Json* end = record.find("end");
      if (end == nullptr) continue;
      steps += end->at("steps").as_integer();
      for (std::size_t i = 0; i < sums.size(); ++i) sums.at(i) += end->at(kSums.at(i)).as_real();
      ++ended;
    } catch (const Error&) {
      continue;
    }
  }
  Json totals = Json::object().set("jobs", jobs).set("ended", ended).set("steps", steps);
  for (std::size_t i = 0; i < sums.size(); ++i) totals.set(kSums.at(i), sums.at(i));
  return totals;
}

Json slurm_variables() {
  constexpr std::array kNames = {"SLURM_JOB_ID",         "SLURM_JOB_NAME",      "SLURM_ARRAY_JOB_ID",
                                 "SLURM_ARRAY_TASK_ID",  "SLURM_RESTART_COUNT", "SLURM_JOB_PARTITION",
                                 "SLURM_JOB_NODELIST",   "SLURM_CLUSTER_NAME",  "SLURM_STEP_ID",
                                 "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_CPUS_PER_TASK"};
  Json found = Json::object();
  for (const char* name : kNames) {
    if (const char* value = std::getenv(name)) found.set(name, value);
  }
  return found;
}

}  // namespace vitrail
