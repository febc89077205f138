#pragma once
// The one way to fail. An Error says what is wrong, why that is wrong and what to try, and carries the exit code
// with which every rank of the job ends.

#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>

namespace vitrail {

/// Exit codes of every program; a batch script branches on them. The same table stands in README.md.
enum class ExitCode : int {
  done = 0,
  other = 1,       ///< anything not listed here
  usage = 2,       ///< usage, configuration, wrong launch, too little memory: the same command would fail again
  data = 3,        ///< training or evaluation data missing, damaged or of the wrong kind
  checkpoint = 4,  ///< a checkpoint cannot be written or read
  numbers = 5,     ///< NaN or Inf, or a failed self-test
  hang = 6,        ///< the watchdog saw no progress
  requeue = 85,    ///< stopped in time, checkpoint written: run me again
};

/// Joins its arguments as an output stream would print them.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// What an Error tells its reader.
struct Fault {
  std::string problem;     ///< what is wrong, with the offending value
  std::string why;         ///< why that is a problem: the rule that it breaks
  std::string suggestion;  ///< what to try; may be empty
  bool late = false;       ///< it happened some time before it was noticed, in work that a device did meanwhile
};

/// what() reads: "problem in part of the work (why). suggestion"; where() is the place in our source that noticed.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, Fault fault, std::source_location where = std::source_location::current());
  /// The same error, of which it is now known in which part of the work it came up. Called on the way out, from the
  /// inside: error.in("layernorm_forward, layer 3"), then .in("step 12").
  [[nodiscard]] Error in(const std::string& part) const;

  [[nodiscard]] ExitCode code() const noexcept { return code_; }
  [[nodiscard]] const Fault& fault() const noexcept { return fault_; }
  [[nodiscard]] const std::source_location& where() const noexcept { return where_; }
  /// The parts of the work, joined by commas; empty while none is known.
  [[nodiscard]] const std::string& parts() const noexcept { return parts_; }

 private:
  Error(ExitCode code, Fault fault, std::source_location where, std::string parts);

  ExitCode code_;
  Fault fault_;
  std::source_location where_;
  std::string parts_;
};

/// Throws Error.
[[noreturn]] void fail(ExitCode code, Fault fault, std::source_location where = std::source_location::current());

/// The nearest of `known` to a misspelt `word` by edit distance, as "Did you mean 'x'?"; empty when nothing is near.
template <class Strings>
std::string did_you_mean(const std::string& word, const Strings& known);

/// Number of single-character insertions, deletions and substitutions between two words.
int edit_distance(const std::string& a, const std::string& b);

template <class Strings>
std::string did_you_mean(const std::string& word, const Strings& known) {
  std::string best;
  int best_distance = 1 + static_cast<int>(word.size()) / 2;
  for (const auto& candidate : known) {
    const int distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best.empty() ? std::string() : "Did you mean '" + best + "'?";
}

}  // namespace vitrail

/// Checks what comes in through a door (files, options, shapes, other ranks). Always on.
/// VITRAIL_EXPECT(a == b, ExitCode::usage, "problem", "why", "suggestion");
#define VITRAIL_EXPECT(condition, code, ...)                                  \
  do {                                                                        \
    if (!(condition)) ::vitrail::fail((code), ::vitrail::Fault{__VA_ARGS__}); \
  } while (false)

/// Checks an invariant of our own code; only in builds with -DVITRAIL_ASSERTIONS=ON.
#ifdef VITRAIL_ASSERTIONS
#define VITRAIL_ASSERT(condition)                                                                         \
  VITRAIL_EXPECT(condition, ::vitrail::ExitCode::other, "broken invariant: " #condition, "this is a bug", \
                 "Please report it with the command and the log")
#else
#define VITRAIL_ASSERT(condition) ((void)0)
#endif
