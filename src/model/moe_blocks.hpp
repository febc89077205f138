#pragma once
// Which blocks are sparse, in words: beside the paper's names (moe_blocks_by_name, model/config.hpp) lists of numbers.

#include <cstdint>
#include <string>
#include <vector>

namespace vitrail {

/// "6-11", "1,3,10-11": block indices from 0, ascending. Empty when it is no such list.
std::vector<std::int64_t> moe_blocks_by_number(const std::string& list);

/// A name that moe_blocks_by_name knows: none, every-n or last-n where one of these fits, else numbers.
std::string name_of_moe_blocks(const std::vector<std::int64_t>& chosen, std::int64_t blocks);

}  // namespace vitrail
