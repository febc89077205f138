#pragma once

#include <string>

namespace vitrail {

/// The version of all programs; the same as project(VERSION) in CMakeLists.txt, which a test compares.
inline constexpr char kVersion[] = "0.1.0";

/// What --version prints.
inline std::string version_line(const std::string& program) { return program + " (Vitrail) " + kVersion + "\n"; }

}  // namespace vitrail
