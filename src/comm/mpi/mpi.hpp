#pragma once
// MPI's room. Everything here works without an MPI header in sight.

#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.hpp"

namespace vitrail {

/// MPI from initialisation to finalisation. Made first thing in main; at most one per process.
class MpiSession {
 public:
  /// MPI_Init_thread (MULTIPLE), MPI_ERRORS_RETURN on the world. Error (usage) on a wrong launch: under Slurm with
  /// SLURM_NTASKS > 1 but a world of one rank (srun without --mpi=pmix).
  MpiSession(int& argc, char**& argv);
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  /// Finalises, unless the process is unwinding from an error (then only run_ranks' abort may end it).
  ~MpiSession();

  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int size() const noexcept;
  /// "Open MPI 4.1.4", for reports.
  [[nodiscard]] static std::string library_version();
  /// All ranks.
  std::unique_ptr<Communicator> world();
};

/// Runs a program that uses MPI: makes the session, calls `body(session)` and returns its exit code. A usage Error that
/// all ranks see alike is printed by rank 0 alone; any other as "prog: rank 3/16 on n2: error: text"; then all ranks
/// are ended with the Error's code by MPI_Abort. Nothing after it may fail silently: no bare exit() after MPI_Init.
/// `program` is the name printed, e.g. "vitrail-train".
int run_ranks(int argc, char** argv, const std::string& program, const std::function<int(MpiSession&)>& body);

}  // namespace vitrail
