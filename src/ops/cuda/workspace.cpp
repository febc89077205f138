#include "ops/cuda/workspace.hpp"

#include "base/error.hpp"

namespace vitrail::cuda {

Workspace::~Workspace() {
  if (block_ != nullptr) device_.release(block_, capacity_);
}

void* Workspace::bytes(std::int64_t count) {
  if (count > capacity_) {
    VITRAIL_EXPECT(!sealed_, ExitCode::other,
                   text("a verb of the cuda back end needs ", count, " bytes of workspace and has ", capacity_),
                   "no verb allocates once the back end is sealed: this shape was not seen before",
                   "This is a bug in the warm-up pass of the caller");
    device_.synchronize();  // earlier verbs may still use the old block
    if (block_ != nullptr) device_.release(block_, capacity_);
    block_ = nullptr;
    capacity_ = 0;
    const std::int64_t rounded = (count + 255) / 256 * 256;
    block_ = device_.allocate(rounded);
    capacity_ = rounded;
  }
  return block_;
}

}  // namespace vitrail::cuda
