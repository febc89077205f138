#include "apps/new_run.hpp"

#include <system_error>
#include <utility>

#include "base/error.hpp"

namespace vitrail {

namespace fs = std::filesystem;

NewRun::NewRun(fs::path path) : path_(std::move(path)) {
  std::error_code failure;
  was_there_ = fs::symlink_status(path_, failure).type() != fs::file_type::not_found;
  if (!was_there_) return;
  const bool empty = fs::is_directory(path_, failure) && fs::is_empty(path_, failure);
  VITRAIL_EXPECT(empty && !failure, ExitCode::usage, text("'", path_.string(), "' is there already"),
                 "the new checkpoint becomes a run of its own, and no run is written over",
                 "Name a folder that does not exist yet");
}

NewRun::~NewRun() {
  if (kept_) return;
  std::error_code failure;  // what is not empty stays
  fs::remove(path_ / "checkpoints", failure);
  if (!was_there_) fs::remove(path_, failure);
}

}  // namespace vitrail
