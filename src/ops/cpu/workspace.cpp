#include "ops/cpu/workspace.hpp"

#include "base/error.hpp"

namespace vitrail::cpu {

Workspace::~Workspace() { release(); }

void Workspace::release() noexcept {
  host_->release(block_, capacity_ * 4);
  block_ = nullptr;
  capacity_ = 0;
}

float* Workspace::floats(std::int64_t count) {
  if (count > capacity_) {
    VITRAIL_EXPECT(!sealed_, ExitCode::other,
                   text("a verb of the cpu back end needs ", count, " floats of workspace and has ", capacity_),
                   "no verb allocates once the back end is sealed: this shape was not seen before",
                   "This is a bug in the warm-up pass of the caller");
    release();
    const std::int64_t rounded = aligned_floats(count);
    try {
      block_ = host_->allocate(rounded * 4);
    } catch (const Error&) {
      fail(ExitCode::usage, {text("no memory for ", rounded * 4, " bytes of workspace of the cpu back end"),
                             "the machine has not enough", "Try fewer leaves per pass, or smaller leaves"});
    }
    capacity_ = rounded;
  }
  return static_cast<float*>(block_);
}

}  // namespace vitrail::cpu
