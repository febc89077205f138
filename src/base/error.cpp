#include "base/error.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace vitrail {

namespace {
std::string sentence(const Fault& fault, const std::string& parts) {
  std::string said = fault.problem;
  if (!parts.empty()) said += (fault.late ? ", noticed in " : " in ") + parts;
  if (!fault.why.empty()) said += " (" + fault.why + ")";
  if (!fault.suggestion.empty()) said += ". " + fault.suggestion;
  return said;
}
}  // namespace

Error::Error(ExitCode code, Fault fault, std::source_location where)
    : Error(code, std::move(fault), where, std::string()) {}

Error::Error(ExitCode code, Fault fault, std::source_location where, std::string parts)
    : std::runtime_error(sentence(fault, parts)),
      code_(code),
      fault_(std::move(fault)),
      where_(where),
      parts_(std::move(parts)) {}

Error Error::in(const std::string& part) const {
  return {code_, fault_, where_, parts_.empty() ? part : parts_ + ", " + part};
}

void fail(ExitCode code, Fault fault, std::source_location where) { throw Error(code, std::move(fault), where); }

int edit_distance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace vitrail
