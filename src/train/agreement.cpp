#include "train/agreement.hpp"

#include <vector>

#include "base/json.hpp"
#include "comm/process.hpp"

namespace vitrail {

std::string RankFault::who() const {
  const std::string others = failed > 1 ? text(" (and ", failed - 1, failed > 2 ? " more ranks)" : " more rank)") : "";
  return text("rank ", rank, " on ", host, others);
}

std::optional<RankFault> agree_on_fault(Communicator& ranks, const std::optional<Fault>& mine) {
  std::int64_t ok = mine ? 0 : 1;
  ranks.all_min({&ok, 1});
  if (ok == 1) return std::nullopt;

  Json said = Json::object().set("host", host_name());
  if (mine) said.set("problem", mine->problem).set("why", mine->why).set("suggestion", mine->suggestion);
  const std::vector<std::string> all = ranks.all_gather_strings(said.dump());
  RankFault first;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const Json of_rank = Json::parse(all[rank], "report of a rank", ExitCode::other);
    if (!of_rank.has("problem") || first.failed++ > 0) continue;
    const auto word = [&](const char* key) { return of_rank.at(key).as_string(); };
    first.rank = static_cast<int>(rank);
    first.host = word("host");
    first.fault = {word("problem"), word("why"), word("suggestion")};
  }
  return first;
}

}  // namespace vitrail
