#pragma once
// Golden files checkpoint_upcycle_*: a dense .npz, and the sparse model that the original makes of it.

#include <filesystem>

#include "apps/golden_file.hpp"

namespace vitrail {

/// Compares what we read of `npz` with /source, and what upcycling makes of it, beginning with /params_before, with
/// /params.
void run_golden_upcycle(const GoldenFile& file, const std::filesystem::path& npz, GoldenReport& report);

}  // namespace vitrail
