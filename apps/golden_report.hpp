#pragma once
// The verdicts of a golden run, printed as they fall: one line per quantity.

#include <cstdio>
#include <span>
#include <string>

#include "base/error.hpp"

namespace vitrail {

/// Largest errors that pass, as parts of the scale that the schema gives for a quantity.
struct GoldenTolerances {
  double outputs = 0;       ///< logits, losses, activations
  double gradients = 0;     ///< gradients and norms
  double trajectories = 0;  ///< parameters after updates
};

class GoldenReport {
 public:
  explicit GoldenReport(std::FILE* out) : out_(out) {}

  /// A line of its own: which file, what it is.
  void headline(const std::string& line);
  /// PASS when every |computed - expected| <= tolerance * scale. A scale of 0 counts as 1; NaN never passes.
  void compare(const std::string& name, std::span<const double> computed, std::span<const double> expected,
               double scale, double tolerance);
  /// PASS when all entries are equal.
  void compare_exactly(const std::string& name, std::span<const double> computed, std::span<const double> expected);
  /// A quantity that is round-off divided by round-off on both sides: shown, not judged.
  void zero_gradient(const std::string& name, std::span<const double> computed, std::span<const double> expected);
  /// The share of equal entries: shown, not judged.
  void equal_share(const std::string& name, std::span<const double> computed, std::span<const double> expected);
  void failed(const std::string& name, const std::string& why);
  /// The file needs what this build has not.
  void unsupported(const std::string& what);
  /// The file is missing, damaged or not of the schema.
  void unreadable(const std::string& why);
  /// Counts of everything so far.
  void summary();

  /// numbers when anything failed, else data when a file was unreadable, else other when something was unsupported or
  /// nothing was compared at all, else done.
  [[nodiscard]] ExitCode exit_code() const;

 private:
  void line(const std::string& verdict, const std::string& name, const std::string& rest);

  std::FILE* out_;
  int passed_ = 0;
  int failed_ = 0;
  int zero_gradients_ = 0;
  int unsupported_ = 0;
  int unreadable_ = 0;
};

/// The largest |x|; 0 for none.
double largest_magnitude(std::span<const double> values);

}  // namespace vitrail
