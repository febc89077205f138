#pragma once
// Tables for other programs.

#include <string>

#include "base/json.hpp"

namespace vitrail {

/// Rows (an array of objects with the same members) as comma-separated values, as RFC 4180 has them but with plain
/// newlines: the names of the members, then a line per row. Reals read back as the same bits; null is an empty cell.
std::string to_csv(const Json& rows);

}  // namespace vitrail
