#include "apps/time_limit.hpp"

#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <string_view>
#include <thread>
#include <vector>

#include <unistd.h>

#include "apps/child_process.hpp"
#include "base/error.hpp"
#include "base/file.hpp"
#include "base/timer.hpp"

namespace vitrail {

namespace {

[[noreturn]] void refuse(const std::string& words) {
  fail(ExitCode::usage, {text("'", words, "' is no time"), "times are written as 3600, 90m, 1:30:00 or 2-00:00:00",
                         "A number alone means seconds"});
}

std::optional<std::int64_t> whole_number(std::string_view digits) {
  std::int64_t number = 0;
  if (digits.empty() || digits.size() > 12 || digits.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return number;
}

/// The numbers between colons: "1:30:00" is {1, 30, 0}. Empty unless all are numbers.
std::vector<double> parts_of(std::string_view words) {
  std::vector<double> parts;
  for (;;) {
    const std::size_t colon = words.find(':');
    const auto number = whole_number(words.substr(0, colon));
    if (!number) return {};
    parts.push_back(static_cast<double>(*number));
    if (colon == std::string_view::npos) return parts;
    words.remove_prefix(colon + 1);
  }
}

/// Parts in units of `unit` seconds, a sixtieth of it, and so on.
double sum_of(const std::vector<double>& parts, double unit) {
  double sum = 0;
  for (const double part : parts) {
    sum += part * unit;
    unit /= 60;
  }
  return sum;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// What squeue says of the end of a job; nothing when it does not answer in time.
std::optional<double> ask_squeue(const std::string& job, const std::filesystem::path& folder, double patience_s) {
  if (!whole_number(job)) return std::nullopt;
  const std::filesystem::path answer = folder / text(".squeue-", getpid());
  std::optional<double> end;
  try {
    ChildProcess squeue({"squeue", "-h", "-j", job, "-O", "EndTime"}, {"SLURM_TIME_FORMAT=standard"}, answer);
    const Stopwatch waiting;
    while (squeue.running() && waiting.seconds() < patience_s) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    if (!squeue.running() && squeue.wait() == 0) end = moment_of(read_file(answer, ExitCode::other));
  } catch (const Error&) {  // no squeue here, or no place for its answer
  }
  std::error_code missing;
  std::filesystem::remove(answer, missing);
  return end;
}

}  // namespace

double duration_of(const std::string& words) {
  constexpr double minute = 60;
  constexpr double hour = 60 * minute;
  constexpr double day = 24 * hour;
  double seconds = 0;
  if (const std::size_t dash = words.find('-'); dash != std::string::npos) {
    const auto days = whole_number(std::string_view(words).substr(0, dash));
    const std::vector<double> rest = parts_of(std::string_view(words).substr(dash + 1));
    if (!days || rest.empty() || rest.size() > 3) refuse(words);
    seconds = static_cast<double>(*days) * day + sum_of(rest, hour);
  } else if (const std::vector<double> parts = parts_of(words); !parts.empty() && parts.size() <= 3) {
    seconds = sum_of(parts, parts.size() == 1 ? 1 : parts.size() == 2 ? minute : hour);
  } else {
    const auto number = whole_number(std::string_view(words).substr(0, words.empty() ? 0 : words.size() - 1));
    const std::size_t unit = std::string_view("smhd").find(words.empty() ? ' ' : words.back());
    if (!number || unit == std::string_view::npos) refuse(words);
    seconds = static_cast<double>(*number) * std::array{1.0, minute, hour, day}.at(unit);
  }
  if (!(seconds > 0)) refuse(words);
  return seconds;
}

std::optional<double> moment_of(const std::string& words) {
  std::tm parts{};
  const char* rest = strptime(words.c_str(), " %Y-%m-%dT%H:%M:%S", &parts);
  if (rest == nullptr || std::string_view(rest).find_first_not_of(" \n") != std::string_view::npos) return std::nullopt;
  parts.tm_isdst = -1;
  const std::time_t moment = std::mktime(&parts);
  if (moment == std::time_t{-1}) return std::nullopt;
  return static_cast<double>(moment);
}

double unix_now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string local_time(double unix_s) {
  const auto moment = static_cast<std::time_t>(unix_s);
  std::tm parts{};
  std::array<char, 32> shown{};
  if (localtime_r(&moment, &parts) == nullptr) return "?";
  return {shown.data(), std::strftime(shown.data(), shown.size(), "%Y-%m-%d %H:%M:%S", &parts)};
}

std::optional<EndOfJob> find_end_of_job(const std::string& time_limit, double start_unix_s,
                                        const std::filesystem::path& folder, double patience_s) {
  if (!time_limit.empty()) return EndOfJob{start_unix_s + duration_of(time_limit), "--time-limit " + time_limit};
  if (const auto end = whole_number(environment("SLURM_JOB_END_TIME")); end && *end > 0) {
    return EndOfJob{static_cast<double>(*end), "SLURM_JOB_END_TIME"};
  }
  if (const auto end = ask_squeue(environment("SLURM_JOB_ID"), folder, patience_s)) return EndOfJob{*end, "squeue"};
  return std::nullopt;
}

}  // namespace vitrail
