// failing_rank WAY RANK: rank RANK (or all) fails in one way while the others wait for it in a collective.
// Started by check_failing_ranks.py, which looks at the exit code, the time and what was printed.
#include <csignal>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "comm/mpi/mpi.hpp"

namespace {

using namespace vitrail;  // NOLINT(google-build-using-namespace): a test program

void fail_by(const std::string& way, Communicator& world) {
  if (way == "usage") fail(ExitCode::usage, {"--batch 7 was asked for", "7 is odd", "Try 8"});
  if (way == "data") fail(ExitCode::data, {"shard 3 is damaged", "its checksum differs", "Copy it again"});
  if (way == "requeue") fail(ExitCode::requeue, {"stopped in time", "", ""});
  if (way == "exception") throw std::runtime_error("a plain exception");
  if (way == "memory") throw std::bad_alloc();
  if (way == "unknown") throw 7;
  if (way == "kill") std::raise(SIGKILL);
  // The others send 64 bytes: this is an error that only MPI itself can see.
  std::vector<std::uint8_t> too_short(8);
  world.broadcast({too_short.data(), {8}, Dtype::u8}, 0);
}

int run(MpiSession& session, const std::string& way, const std::string& who) {
  const auto world = session.world();
  if (way == "return") return std::stoi(who);
  std::printf("rank %d was here", world->rank());  // no newline: must be flushed all the same
  if (who == "all" || std::stoi(who) == world->rank()) fail_by(way, *world);
  std::vector<std::uint8_t> bytes(64);
  world->broadcast({bytes.data(), {64}, Dtype::u8}, 0);
  world->barrier();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_ranks(argc, argv, "failing-rank", [&](MpiSession& session) { return run(session, argv[1], argv[2]); });
}
