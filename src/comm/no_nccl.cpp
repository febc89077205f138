// Stands in for comm/nccl in builds without CUDA.

#include "comm/communicator.hpp"

namespace vitrail {

bool nccl_is_built() noexcept { return false; }

std::unique_ptr<Communicator> make_nccl_communicator(Communicator&, Device&) {
  fail(ExitCode::usage, {"this build has no NCCL", "it was configured without VITRAIL_CUDA",
                         "Use another --communicator, or build with -DVITRAIL_CUDA=ON (Spack: vitrail +cuda)"});
}

}  // namespace vitrail
