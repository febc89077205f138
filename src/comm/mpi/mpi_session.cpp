#include <array>
#include <cstdlib>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <mpi.h>

#include "base/error.hpp"
#include "comm/launcher.hpp"
#include "comm/mpi/check.hpp"
#include "comm/mpi/mpi.hpp"
#include "comm/mpi/mpi_communicator.hpp"

namespace vitrail {

namespace {

// srun without the plug-in that this MPI speaks starts every task as a world of its own: N equal trainings that write
// over each other.
void expect_tasks_to_meet(bool they_meet) {
  const Launch launch = launch_of_process();
  VITRAIL_EXPECT(they_meet || launch.tasks <= 1 || launch.by != "Slurm", ExitCode::usage,
                 text("Slurm started ", launch.tasks, " tasks, but MPI sees a world of one rank"),
                 "srun did not connect the tasks, so each would run alone and write over the others",
                 "Start with srun --mpi=pmix ('srun --mpi=list' shows what this site has)");
}

/// What Open MPI leaves out while this lives in a process that nobody started together with others: networks, whose
/// libraries take a quarter of a second to find out that there are none (PSM waits to calibrate a clock), and a daemon
/// for processes that might be added. It reads this when it is initialised; what the user has set counts.
class AloneInOpenMpi {
 public:
  AloneInOpenMpi() {
    if (launcher_connects_tasks() || !launch_of_process().by.empty()) return;
    for (const auto& [name, value] :
         {std::pair{"OMPI_MCA_ess_singleton_isolated", "1"}, {"OMPI_MCA_pml", "ob1"}, {"OMPI_MCA_btl", "self"}}) {
      if (std::getenv(name) == nullptr && setenv(name, value, 0) == 0) set_.push_back(name);
    }
  }
  AloneInOpenMpi(const AloneInOpenMpi&) = delete;
  AloneInOpenMpi& operator=(const AloneInOpenMpi&) = delete;
  ~AloneInOpenMpi() {
    for (const char* name : set_) unsetenv(name);
  }

 private:
  std::vector<const char*> set_;
};

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) : uncaught_(std::uncaught_exceptions()) {
  // Before MPI_Init: Open MPI ends there, with a code that says nothing, when it finds srun but no way to the others.
  expect_tasks_to_meet(launcher_connects_tasks());
  int level = MPI_THREAD_SINGLE;
  {
    const AloneInOpenMpi alone;
    check(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level));
  }
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  check(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN));
  VITRAIL_EXPECT(level == MPI_THREAD_MULTIPLE, ExitCode::usage,
                 text(library_version(), " does not offer MPI_THREAD_MULTIPLE"), "several threads communicate",
                 "Use an MPI built with thread support");
  check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  check(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  expect_tasks_to_meet(size_ > 1);
  open_ = std::make_unique<OpenCommunicators>();
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > uncaught_) {
    open_->abandon();  // the other ranks may be stuck in a collective: finalising would wait for them
    return;
  }
  open_.reset();
  MPI_Finalize();
}

int MpiSession::rank() const noexcept { return rank_; }
int MpiSession::size() const noexcept { return size_; }

std::string MpiSession::library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> said{};
  int length = 0;
  check(MPI_Get_library_version(said.data(), &length));
  std::string version(said.data(), static_cast<std::size_t>(length));
  version = version.substr(0, version.find_first_of(",\n"));  // Open MPI goes on with who built it
  const auto letter = version.find(" v");
  if (letter != std::string::npos) version.erase(letter + 1, 1);
  return version;
}

std::unique_ptr<Communicator> MpiSession::world() {
  MPI_Comm twin = MPI_COMM_NULL;  // a twin of the world: libraries' messages cannot meet ours
  check(MPI_Comm_dup(MPI_COMM_WORLD, &twin));
  return std::make_unique<MpiCommunicator>(*open_, open_->adopt(twin));
}

}  // namespace vitrail
