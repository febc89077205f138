#include "apps/rank_names.hpp"

#include "base/error.hpp"

namespace vitrail {

namespace {

constexpr std::size_t kMostNames = 4;

/// name(0), name(1) and name(2), or, of more than can be read, the first and how many follow.
template <class Name>
std::string listed(std::size_t count, const Name& name) {
  const std::size_t shown = count <= kMostNames + 1 ? count : kMostNames;
  std::string all;
  for (std::size_t i = 0; i < shown; ++i) {
    const bool last = i + 1 == count;
    if (i > 0) all += last ? " and " : ", ";
    all += name(i);
  }
  return shown < count ? text(all, " and ", count - shown, " more") : all;
}

}  // namespace

std::string rank_names(const std::vector<std::int64_t>& ranks) {
  const auto name = [&](std::size_t i) { return std::to_string(ranks[i]); };
  return (ranks.size() == 1 ? "rank " : "ranks ") + listed(ranks.size(), name);
}

std::string rank_names_with_hosts(const std::vector<std::int64_t>& ranks, const std::vector<std::string>& hosts) {
  return listed(ranks.size(), [&](std::size_t i) {
    return text("rank ", ranks[i], " on ", hosts.at(static_cast<std::size_t>(ranks[i])));
  });
}

}  // namespace vitrail
