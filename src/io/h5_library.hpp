#pragma once
// The HDF5 library that this process has loaded, for reports.

#include <string>

namespace vitrail::h5 {

/// "1.10.8"
std::string library_version();
/// Whether several threads may call it at the same time. Ours may anyway: without, one lock is held for all of it.
bool library_is_thread_safe();
/// Whether it is the version whose headers this program was built with.
bool library_is_the_one_of_the_build();

}  // namespace vitrail::h5
