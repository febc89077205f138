#include "io/h5_library.hpp"

#include "base/error.hpp"
#include "io/h5_door.hpp"

namespace vitrail::h5 {

namespace {

struct Version {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
};

Version loaded() {
  const Door door;
  Version version;
  check(H5get_libversion(&version.major, &version.minor, &version.release), ExitCode::other,
        "the HDF5 library does not tell its version");
  return version;
}

}  // namespace

std::string library_version() {
  const Version version = loaded();
  return text(version.major, ".", version.minor, ".", version.release);
}

bool library_is_thread_safe() {
  const Door door;
  hbool_t safe = 0;
  return H5is_library_threadsafe(&safe) >= 0 && safe;
}

bool library_is_the_one_of_the_build() {
  const Version version = loaded();
  return version.major == H5_VERS_MAJOR && version.minor == H5_VERS_MINOR && version.release == H5_VERS_RELEASE;
}

}  // namespace vitrail::h5
