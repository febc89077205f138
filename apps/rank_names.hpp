#pragma once
// Ranks in messages.

#include <cstdint>
#include <string>
#include <vector>

namespace vitrail {

/// "rank 3", "ranks 0, 1 and 5", and of many the first ones: "ranks 0, 1, 2, 3 and 60 more".
std::string rank_names(const std::vector<std::int64_t>& ranks);

/// The same with where they run: "rank 1 on n1, rank 2 on n1 and 5 more". `hosts`: of all ranks.
std::string rank_names_with_hosts(const std::vector<std::int64_t>& ranks, const std::vector<std::string>& hosts);

}  // namespace vitrail
