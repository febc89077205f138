#pragma once
// Inside the HDF5 room only: what every call does before and after. Includes HDF5's headers; use h5.hpp elsewhere.

#include <mutex>
#include <source_location>
#include <string>
#include <string_view>

#include <hdf5.h>

#include "base/dtype.hpp"
#include "base/error.hpp"
#include "base/unique_handle.hpp"

namespace vitrail::h5 {

/// Stands at the start of every function that calls HDF5: switches off HDF5's own printing (a setting of the calling
/// thread) and, where the library was built without thread safety, holds one lock for all of it.
class Door {
 public:
  Door();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

/// HDF5's explanation of the last failure of this thread, in one line: the innermost cause.
std::string reason();

/// Fails with HDF5's explanation if an HDF5 function returned a negative number; otherwise returns the number.
template <class Result>
Result check(Result result, ExitCode code, std::string_view problem,
             std::source_location where = std::source_location::current()) {
  if (result < 0) fail(code, {std::string(problem), reason(), ""}, where);
  return result;
}

/// One owner for all short-lived handles: H5Idec_ref closes whatever the handle is.
struct AnyTraits {
  using Handle = hid_t;
  static constexpr Handle null = -1;
  static void close(Handle handle) noexcept;
};
using Any = UniqueHandle<AnyTraits>;

/// The HDF5 type of a Dtype in memory, or in a file (little-endian). c128 is refused.
Any type_in_memory(Dtype dtype, ExitCode code);
Any type_in_file(Dtype dtype, ExitCode code);

/// The Dtype of a type found in a file; other types are an Error that names the object `where`.
Dtype dtype_of_type(hid_t type, ExitCode code, const std::string& where);

/// Transfer properties: a value that does not fit into the type it is converted to fails the transfer.
Any strict_transfer(ExitCode code);

/// Refuses to read fractions as integers.
void expect_convertible(Dtype from, Dtype to, ExitCode code, const std::string& where);

}  // namespace vitrail::h5
