#pragma once

namespace vitrail {

/// The version of all programs; the same as project(VERSION) in CMakeLists.txt, which a test compares.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace vitrail
