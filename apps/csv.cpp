#include "apps/csv.hpp"

namespace vitrail {

namespace {

/// In quotes where it must be.
std::string quoted(const std::string& words) {
  if (words.find_first_of(",\"\r\n") == std::string::npos) return words;
  std::string cell = "\"";
  for (const char c : words) {
    cell += c;
    if (c == '"') cell += c;
  }
  return cell + '"';
}

std::string cell_of(const Json& value) {
  if (value.is_null()) return "";
  return value.is_string() ? quoted(value.as_string()) : value.dump();
}

}  // namespace

std::string to_csv(const Json& rows) {
  std::string csv;
  for (const Json& row : rows.items()) {
    std::string names;
    std::string cells;
    for (const JsonMember& member : row.members()) {
      const char* const between = names.empty() ? "" : ",";
      names += between + quoted(member.key);
      cells += between + cell_of(member.value);
    }
    if (csv.empty()) csv = names + '\n';
    csv += cells + '\n';
  }
  return csv;
}

}  // namespace vitrail
