#pragma once
// The Error that a call throws, for the tests of its text and exit code.

#include <functional>

#include "base/error.hpp"

namespace vitrail::testing {

/// One of ExitCode::done when the call throws none.
inline Error error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return {ExitCode::done, {"no error", "", ""}};
}

}  // namespace vitrail::testing
