// vitrail-doctor: is this node, or are these nodes, fit for training?

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "apps/bench_measure.hpp"
#include "apps/doctor.hpp"
#include "apps/doctor_deadline.hpp"
#include "apps/doctor_environment.hpp"
#include "apps/doctor_files.hpp"
#include "apps/doctor_gpu.hpp"
#include "apps/doctor_node.hpp"
#include "apps/doctor_ranks.hpp"
#include "apps/options.hpp"
#include "apps/run_start.hpp"
#include "apps/version.hpp"
#include "base/sha256.hpp"
#include "comm/mpi/mpi.hpp"
#include "comm/process.hpp"
#include "io/h5_library.hpp"

namespace vitrail {
namespace {

constexpr const char* kProgram = "vitrail-doctor";
constexpr const char* kManual =
    "vitrail-doctor: looks at this node, or started by srun or mpirun at all nodes of a job, and says what is off:\n"
    "MPI and its speed, HDF5, processor, pinning, memory, limits, GPUs, environment variables, clocks, time to start.\n"
    "With --run-dir also the file system of a run: writable, shared by all ranks, space, rename, fsync, locks, speed.\n"
    "\n"
    "  vitrail-doctor --run-dir runs\n"
    "  mpirun -np 4 vitrail-doctor --run-dir runs\n"
    "  srun --mpi=pmix vitrail-doctor --run-dir /scratch/me/runs --json\n"
    "\n"
    "One line a finding: 'ok', 'warn' (training works, but slowly or not everywhere) or 'bad', with what to try. A "
    "line\n"
    "speaks for all ranks unless it names some. --json prints one object with all findings.\n"
    "\n"
    "Exit codes: 0 nothing is bad; 2 something is, or usage.";

struct Settings {
  std::filesystem::path run_dir;
  std::int64_t mib = 64;
  double time_limit = 120;
  bool json = false;
};

/// All ranks know all of this.
struct Job {
  Communicator& world;
  std::vector<std::string> hosts;
  std::vector<Pinning> pinning;
  int lowest_isa_level = 0;

  [[nodiscard]] int rank() const { return world.rank(); }
  [[nodiscard]] const std::string& host() const { return hosts.at(static_cast<std::size_t>(rank())); }
  [[nodiscard]] int ranks_of_node() const { return static_cast<int>(std::count(hosts.begin(), hosts.end(), host())); }
  /// Number of this rank among those of its node.
  [[nodiscard]] int local_rank() const {
    return static_cast<int>(std::count(hosts.begin(), hosts.begin() + rank(), host()));
  }
};

Job meet(Communicator& world) {
  Job job{world, world.all_gather_strings(host_name()), {}, 0};
  const Pinning mine = see_pinning(job.host());
  const std::vector<std::string> lists = world.all_gather_strings(cpu_list(mine.cpus));
  const std::vector<std::string> online = world.all_gather_strings(std::to_string(mine.online));
  for (std::size_t i = 0; i < lists.size(); ++i) {
    job.pinning.push_back({job.hosts[i], cpus_of_list(lists[i]), std::atoi(online[i].c_str())});
  }
  std::int64_t level = see_processor().isa_level;
  world.all_min({&level, 1});
  job.lowest_isa_level = static_cast<int>(level);
  return job;
}

void append(Findings& findings, Findings more) {
  findings.insert(findings.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

std::string hash_of_this_program() {
  try {
    return sha256_of_file("/proc/self/exe", ExitCode::other).substr(0, 12);
  } catch (const Error&) {
    return "unknown";
  }
}

/// What all ranks must have the same of, and do together. Rank 0's findings alone are kept.
void look_at_ranks(const Job& job, double age_s, Findings& findings) {
  Communicator& world = job.world;
  const std::string library = MpiSession::library_version();
  const auto add = [&](Finding finding) {
    if (job.rank() == 0) findings.push_back(of_job(std::move(finding)));
  };
  add(judge_world(library, launch_of_process(), world.size()));
  const auto alike = [&](const char* check, const char* what, const std::string& mine, const char* advice) {
    add(judge_alike(check, what, world.all_gather_strings(mine), job.hosts, advice));
  };
  // When they are the same, the line before has said so.
  Finding libraries = judge_alike("mpi", "the MPI library", world.all_gather_strings(library), job.hosts,
                                  "All nodes must load the same one: compare their modules");
  if (libraries.health != Health::ok) add(std::move(libraries));
  alike("program", "vitrail-doctor", text(kVersion, " (", hash_of_this_program(), ")"),
        "All nodes must run the same build: install on a shared file system");
  alike("hdf5", "HDF5",
        text(h5::library_version(),
             h5::library_is_thread_safe() ? ", thread-safe" : ", not thread-safe: calls take turns"),
        "All nodes must load the same one: compare their modules");
  if (!h5::library_is_the_one_of_the_build()) {
    add(warn("hdf5", text("the library loaded, ", h5::library_version(), ", is not the one of the build"),
             "Load the module that Vitrail was built with, or build it again"));
  }
  add(judge_exchange(see_exchange(world), world.size()));
  if (world.size() > 1) add(judge_clocks(see_clocks(world)));
  std::vector<double> ages(static_cast<std::size_t>(world.size()));
  world.all_gather(ConstTensor(&age_s, {1}, Dtype::f64), Tensor(ages.data(), {world.size()}, Dtype::f64));
  add(judge_start(ages));
  for (Finding& one : judge_pinning(job.pinning)) add(std::move(one));
}

/// What a node's first rank says for it, and what each rank says for itself.
void look_at_node(const Job& job, Deadline& deadline, Findings& findings) {
  const int ranks = job.ranks_of_node();
  const std::vector<int>& mine = job.pinning.at(static_cast<std::size_t>(job.rank())).cpus;
  std::vector<int> cores;
  for (const Pinning& one : job.pinning) {
    if (one.host == job.host()) cores.insert(cores.end(), one.cpus.begin(), one.cpus.end());
  }
  std::sort(cores.begin(), cores.end());
  const auto different = static_cast<int>(std::unique(cores.begin(), cores.end()) - cores.begin());
  if (job.local_rank() == 0) {
    findings.push_back(judge_processor(see_processor(), job.lowest_isa_level));
    append(findings, judge_cpu_quota(see_cpu_quota(), ranks, different));
    append(findings, judge_memory(see_memory(), ranks));
    append(findings, judge_limits(see_limits()));
  }
  deadline.now("gpu");
  findings.push_back(judge_gpu(see_gpu(job.local_rank()), ranks));
  append(findings, judge_environment(environment_of_process(), {.ranks = job.world.size(),
                                                                .ranks_of_node = ranks,
                                                                .cores = static_cast<int>(mine.size()),
                                                                .crowded = ranks > different}));
}

Json report_json(const std::vector<SharedFinding>& all, const std::vector<std::string>& hosts) {
  Json findings = Json::array();
  for (const SharedFinding& one : all) {
    Json ranks = Json::array();
    for (const int rank : one.ranks) ranks.push_back(rank);
    const Finding& finding = one.finding;
    findings.push_back(Json::object()
                           .set("health", name_of(finding.health))
                           .set("check", finding.check)
                           .set("said", finding.said)
                           .set("advice", finding.advice)
                           .set("ranks", finding.of_job ? Json() : std::move(ranks)));
  }
  Json names = Json::array();
  for (const std::string& host : hosts) names.push_back(host);
  return Json::object()
      .set("version", kVersion)
      .set("ranks", std::ssize(hosts))
      .set("hosts", std::move(names))
      .set("findings", std::move(findings));
}

/// Prints on rank 0. Returns the exit code, the same on all ranks.
int report(const Job& job, const Findings& mine, bool json) {
  std::vector<Findings> of_ranks;
  for (const std::string& one : job.world.all_gather_strings(to_json(mine).dump())) {
    of_ranks.push_back(findings_from_json(Json::parse(one, "the findings of a rank", ExitCode::other)));
  }
  const std::vector<SharedFinding> all = shared(of_ranks);
  if (job.rank() == 0 && json) std::cout << report_json(all, job.hosts).dump() << std::endl;
  if (job.rank() == 0 && !json) {
    print_findings(std::cout, all, job.hosts);
    std::cout.flush();
  }
  const bool any_bad =
      std::any_of(all.begin(), all.end(), [](const SharedFinding& one) { return one.finding.health == Health::bad; });
  return static_cast<int>(any_bad ? ExitCode::usage : ExitCode::done);
}

int examine(MpiSession* session, int argc, const char* const* argv) {
  const double age_s = process_age_s();
  Settings s;
  Options options(kProgram, kManual);
  options.add("run-dir", s.run_dir, "DIR", "folder of runs, whose file system is looked at too");
  options.add("mib", s.mib, "N", "MiB that each rank writes and reads there");
  options.add("time-limit", s.time_limit, "S", "seconds after which a check that has not ended is bad");
  options.add("json", s.json, "", "one JSON object instead of lines");
  if (!options.parse(argc, argv) || session == nullptr) return 0;
  options.apply();
  VITRAIL_EXPECT(s.mib >= 1 && s.mib <= 1 << 20, ExitCode::usage, text("--mib ", s.mib), "it must be 1 to 1048576", "");
  VITRAIL_EXPECT(s.time_limit > 0 && s.time_limit < 1e6, ExitCode::usage, text("--time-limit ", s.time_limit),
                 "checks take time", "");

  Deadline deadline(s.time_limit, session->rank(), host_name());
  deadline.now("mpi");
  const auto world = session->world();
  const Job job = meet(*world);
  Findings findings;
  look_at_ranks(job, age_s, findings);
  deadline.now("node");
  look_at_node(job, deadline, findings);
  if (!s.run_dir.empty()) {
    deadline.now("run-dir");
    append(findings, check_folder(*world, job.hosts, s.run_dir, s.mib << 20));
  }
  deadline.now("report");
  return report(job, findings, s.json);
}

}  // namespace
}  // namespace vitrail

int main(int argc, char** argv) {
  using namespace vitrail;
  if (wants_manual(argc, argv)) {
    return run_guarded(kProgram, [&] { return examine(nullptr, argc, argv); });
  }
  return run_ranks(argc, argv, kProgram, [&](MpiSession& session) { return examine(&session, argc, argv); });
}
