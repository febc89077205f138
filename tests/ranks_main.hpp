#pragma once
// What the tests in ranks_*.cpp share.

#include "comm/communicator.hpp"

namespace vitrail::test {

/// All ranks of the run.
Communicator& world();

}  // namespace vitrail::test
