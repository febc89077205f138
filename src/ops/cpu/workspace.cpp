#include "ops/cpu/workspace.hpp"

#include <cstdlib>

#include "base/error.hpp"

namespace vitrail::cpu {

void Workspace::BlockTraits::close(Handle block) noexcept { std::free(block); }

float* Workspace::floats(std::int64_t count) {
  if (count > capacity_) {
    VITRAIL_EXPECT(!sealed_, ExitCode::other,
                   text("a verb of the cpu back end needs ", count, " floats of workspace and has ", capacity_),
                   "no verb allocates once the back end is sealed: this shape was not seen before",
                   "This is a bug in the warm-up pass of the caller");
    block_.reset();
    capacity_ = 0;
    const std::int64_t rounded = aligned_floats(count);
    auto* memory = static_cast<float*>(std::aligned_alloc(64, static_cast<std::size_t>(rounded) * sizeof(float)));
    VITRAIL_EXPECT(memory != nullptr, ExitCode::usage,
                   text("no memory for ", rounded * 4, " bytes of workspace of the cpu back end"),
                   "the machine has not enough", "Try fewer leaves per pass, or smaller leaves");
    block_ = UniqueHandle<BlockTraits>(memory);
    capacity_ = rounded;
  }
  return block_.get();
}

}  // namespace vitrail::cpu
