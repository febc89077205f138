#include "apps/scratch_folder.hpp"

#include <cerrno>
#include <cstring>

#include <stdlib.h>

#include "base/error.hpp"

namespace vitrail {

ScratchFolder::ScratchFolder(const std::string& name) {
  std::string pattern = (std::filesystem::temp_directory_path() / (name + "-XXXXXX")).string();
  VITRAIL_EXPECT(mkdtemp(pattern.data()) != nullptr, ExitCode::other, text("the folder '", pattern, "' cannot be made"),
                 std::strerror(errno), "Set TMPDIR to a folder that can be written");
  path_ = pattern;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace vitrail
