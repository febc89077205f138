#include "model/moe_blocks.hpp"

#include <sstream>

#include "model/config.hpp"

namespace vitrail {

namespace {

/// The number that a text is, up to 99999; none: -1.
std::int64_t small_number(const std::string& digits) {
  const bool number = !digits.empty() && digits.size() < 6 && digits.find_first_not_of("0123456789") == digits.npos;
  return number ? std::stoll(digits) : -1;
}

}  // namespace

std::vector<std::int64_t> moe_blocks_by_number(const std::string& list) {
  std::vector<std::int64_t> chosen;
  if (list.ends_with(',')) return chosen;
  std::istringstream items(list);
  for (std::string item; std::getline(items, item, ',');) {
    const std::size_t dash = item.find('-');
    const std::int64_t first = small_number(item.substr(0, dash));
    const std::int64_t last = dash == std::string::npos ? first : small_number(item.substr(dash + 1));
    if (first < 0 || last < first || (!chosen.empty() && first <= chosen.back())) return {};
    for (std::int64_t block = first; block <= last; ++block) chosen.push_back(block);
  }
  return chosen;
}

std::string name_of_moe_blocks(const std::vector<std::int64_t>& chosen, std::int64_t blocks) {
  if (chosen.empty()) return "none";
  for (const std::string kind : {"every-", "last-"}) {
    const std::int64_t n = kind == "every-" ? chosen.front() + 1 : std::ssize(chosen);
    if (moe_blocks_by_name(kind + std::to_string(n), blocks) == chosen) return kind + std::to_string(n);
  }
  std::string list;
  for (std::size_t i = 0; i < chosen.size();) {
    std::size_t last = i;
    while (last + 1 < chosen.size() && chosen[last + 1] == chosen[last] + 1) ++last;
    list += (list.empty() ? "" : ",") + std::to_string(chosen[i]);
    if (last > i) list += "-" + std::to_string(chosen[last]);
    i = last + 1;
  }
  return list;
}

}  // namespace vitrail
