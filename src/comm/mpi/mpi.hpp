#pragma once
// MPI's room. Everything here works without an MPI header in sight, and in builds without MPI (VITRAIL_MPI=OFF): a
// session is one rank then, and its world is the communicator `self`.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.hpp"

namespace vitrail {

class OpenCommunicators;

/// MPI from initialisation to finalisation. Made first thing in main; at most one per process.
class MpiSession {
 public:
  /// MPI_Init_thread (MULTIPLE), MPI_ERRORS_RETURN on the world. Error (usage) on a wrong launch: under Slurm with
  /// SLURM_NTASKS > 1 but a world of one rank (srun without --mpi=pmix), or an MPI without MPI_THREAD_MULTIPLE. In
  /// a build without MPI: under any launcher that started more than one task.
  MpiSession(int& argc, char**& argv);
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  /// Finalises, unless the process is unwinding from an error (then only run_ranks' abort may end it).
  ~MpiSession();

  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int size() const noexcept;
  /// "Open MPI 4.1.4", or "no MPI", for reports.
  [[nodiscard]] static std::string library_version();
  /// All ranks. Collective. The session outlives its communicators, and those split from them: their destructors do
  /// not communicate, the session frees what they used at its end. So make communicators at the start, not per step.
  std::unique_ptr<Communicator> world();

 private:
  int uncaught_;
  int rank_ = 0;
  int size_ = 1;
  std::unique_ptr<OpenCommunicators> open_;
};

/// The ranks of an MPI communicator again, in which no MPI call carries more than `call_limit_bytes` (never more than
/// 2^31-1): larger transfers are cut. Collective. Lets tests cut small transfers; an Error for other communicators.
std::unique_ptr<Communicator> duplicate_with_call_limit(Communicator& mpi, std::int64_t call_limit_bytes);

/// Runs a program that uses MPI: makes the session, calls `body(session)` and returns its exit code, which should be
/// the same on all ranks. An Error that leaves `body` is printed and ends all ranks with its code by MPI_Abort (other
/// exceptions: 1, or 2 when memory ran out):
///   prog: rank 3/16 on n2: error: text     on every rank that fails
///   prog: error: text                      a usage Error, which all ranks see alike: by rank 0 alone
/// Another rank with a usage Error gives rank 0 two seconds to end it before it speaks for itself. Nothing after the
/// start may fail silently: no bare exit() after MPI_Init. `program` is the name printed, e.g. "vitrail-train".
int run_ranks(int argc, char** argv, const std::string& program, const std::function<int(MpiSession&)>& body);

}  // namespace vitrail
