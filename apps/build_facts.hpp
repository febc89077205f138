#pragma once
// What this build was made from. CMake writes the answers (apps/build_facts.cpp.in, apps/git_commit.cmake).

#include <string>
#include <vector>

#include "base/json.hpp"

namespace vitrail {

/// "1a2b3c4d5e6f", with "-dirty" behind it when the tree had changes that are not committed; "unknown" without Git.
std::string git_commit();

/// Libraries that were found when the build was configured: "HDF5 1.10.8".
std::vector<std::string> built_with();

/// All of it and the compiler with its flags, as one object.
Json build_facts();

}  // namespace vitrail
