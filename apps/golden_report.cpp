#include "apps/golden_report.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>

namespace vitrail {

namespace {

std::string short_number(double x) { return text(std::scientific, std::setprecision(1), x); }

/// NaN if any difference is: it must not get lost in a maximum.
double largest_difference(std::span<const double> a, std::span<const double> b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace

double largest_magnitude(std::span<const double> values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

void GoldenReport::line(const std::string& verdict, const std::string& name, const std::string& rest) {
  const std::string whole = text(std::left, std::setw(14), verdict, std::setw(68), name, ' ', rest, '\n');
  std::fwrite(whole.data(), 1, whole.size(), out_);
  std::fflush(out_);
}

void GoldenReport::headline(const std::string& headline) {
  const std::string whole = text("== ", headline, '\n');
  std::fwrite(whole.data(), 1, whole.size(), out_);
}

void GoldenReport::compare(const std::string& name, std::span<const double> computed, std::span<const double> expected,
                           double scale, double tolerance) {
  if (computed.size() != expected.size()) {
    return failed(name, text(computed.size(), " numbers computed, ", expected.size(), " in the file"));
  }
  const double error = largest_difference(computed, expected) / (scale > 0 ? scale : 1.0);
  const bool good = error <= tolerance;
  ++(good ? passed_ : failed_);
  line(good ? "PASS" : "FAIL", name, text("error ", short_number(error), "  tolerance ", short_number(tolerance)));
}

void GoldenReport::compare_exactly(const std::string& name, std::span<const double> computed,
                                   std::span<const double> expected) {
  if (computed.size() != expected.size()) {
    return failed(name, text(computed.size(), " numbers computed, ", expected.size(), " in the file"));
  }
  std::size_t different = 0;
  for (std::size_t i = 0; i < computed.size(); ++i) different += computed[i] == expected[i] ? 0 : 1;
  ++(different == 0 ? passed_ : failed_);
  line(different == 0 ? "PASS" : "FAIL", name, text(different, " of ", computed.size(), " differ  tolerance exact"));
}

void GoldenReport::zero_gradient(const std::string& name, std::span<const double> computed,
                                 std::span<const double> expected) {
  if (computed.size() != expected.size()) {
    return failed(name, text(computed.size(), " numbers computed, ", expected.size(), " in the file"));
  }
  const double difference = largest_difference(computed, expected);
  if (std::isnan(difference)) return failed(name, "NaN");
  ++zero_gradients_;
  line("ZERO-GRADIENT", name, text("differs by ", short_number(difference), ", not judged"));
}

void GoldenReport::equal_share(const std::string& name, std::span<const double> computed,
                               std::span<const double> expected) {
  if (computed.size() != expected.size()) {
    return failed(name, text(computed.size(), " numbers computed, ", expected.size(), " in the file"));
  }
  std::size_t equal = 0;
  for (std::size_t i = 0; i < computed.size(); ++i) equal += computed[i] == expected[i] ? 1 : 0;
  line("SHARE", name, text(equal, " of ", computed.size(), " equal, not judged"));
}

void GoldenReport::failed(const std::string& name, const std::string& why) {
  ++failed_;
  line("FAIL", name, why);
}

void GoldenReport::unsupported(const std::string& what) {
  ++unsupported_;
  line("UNSUPPORTED", what, "");
}

void GoldenReport::unreadable(const std::string& why) {
  ++unreadable_;
  line("UNREADABLE", why, "");
}

void GoldenReport::summary() {
  headline(text(passed_, " passed, ", failed_, " failed, ", unsupported_, " unsupported, ", unreadable_,
                " unreadable, ", zero_gradients_, " zero gradients not judged"));
}

ExitCode GoldenReport::exit_code() const {
  if (failed_ > 0) return ExitCode::numbers;
  if (unreadable_ > 0) return ExitCode::data;
  if (unsupported_ > 0 || passed_ == 0) return ExitCode::other;
  return ExitCode::done;
}

}  // namespace vitrail
