// Stands in for comm/mpi in builds without MPI: every program is one rank.

#include "base/error.hpp"
#include "comm/launcher.hpp"
#include "comm/mpi/mpi.hpp"
#include "comm/process.hpp"

namespace vitrail {

class OpenCommunicators {};  // a communicator of one rank leaves nothing to close

MpiSession::MpiSession(int&, char**&) : uncaught_(0) {
  const Launch launch = launch_of_process();
  VITRAIL_EXPECT(launch.tasks <= 1, ExitCode::usage,
                 text(launch.by, " started ", launch.tasks, " tasks, but this build has no MPI"),
                 "each would run alone and write over the others",
                 "Start one task, or build with -DVITRAIL_MPI=ON (Spack: vitrail +mpi)");
}

MpiSession::~MpiSession() = default;

int MpiSession::rank() const noexcept { return rank_; }
int MpiSession::size() const noexcept { return size_; }
std::string MpiSession::library_version() { return "no MPI"; }
std::unique_ptr<Communicator> MpiSession::world() { return make_self_communicator(); }

std::unique_ptr<Communicator> duplicate_with_call_limit(Communicator&, std::int64_t) {
  fail(ExitCode::other, {"this communicator has no limit per MPI call", "this build has no MPI", ""});
}

ProcessRank rank_of_process() noexcept { return {}; }
void abort_all_ranks(int) noexcept {}

}  // namespace vitrail
