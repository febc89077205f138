#include "comm/mpi/check.hpp"

#include <array>
#include <string>
#include <string_view>

#include "base/error.hpp"

namespace vitrail {

void check(int rc, std::source_location where) {
  if (rc == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> said{};
  int length = 0;
  if (MPI_Error_string(rc, said.data(), &length) != MPI_SUCCESS) length = 0;
  std::string_view file = where.file_name();
  file.remove_prefix(file.rfind('/') + 1);  // npos + 1 is 0
  fail(ExitCode::other,
       {text("MPI failed with ", std::string_view(said.data(), static_cast<std::size_t>(length)), " [code ", rc, "]"),
        text("at ", file, ":", where.line()),
        "If the ranks may have disagreed about a collective, a build with the preset 'dev' names the ones that did"},
       where);
}

}  // namespace vitrail
