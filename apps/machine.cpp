#include "apps/machine.hpp"

#include <algorithm>
#include <cstdlib>
#include <set>

#include <unistd.h>

#include "apps/rank_names.hpp"
#include "ops/cpu/cpu_isa.hpp"

namespace vitrail {

namespace {

/// By which ranks know whether they are on one node. NCCL goes by the same variable.
std::string host_name() {
  if (const char* given = std::getenv("NCCL_HOSTID"); given != nullptr && *given != '\0') return given;
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

/// "ranks 0 and 2 the same one on n1": of the first GPU that several have. An identity begins with the host's name.
std::string ranks_of_a_shared_gpu(const std::vector<std::string>& gpu_of_rank) {
  for (const std::string& gpu : gpu_of_rank) {
    std::vector<std::int64_t> ranks;
    for (std::size_t rank = 0; rank < gpu_of_rank.size(); ++rank) {
      if (gpu_of_rank[rank] == gpu) ranks.push_back(static_cast<std::int64_t>(rank));
    }
    if (ranks.size() > 1) return text(rank_names(ranks), " the same one on ", gpu.substr(0, gpu.find(' ')));
  }
  return "";
}

void expect_threads(std::int64_t threads) {
  VITRAIL_EXPECT(threads >= 1 && threads <= 1024, ExitCode::usage, text("--threads ", threads),
                 "every rank needs 1 to 1024 threads", "");
}

void expect_known(const std::string& backend) {
  VITRAIL_EXPECT(backend == "cpu" || backend == "cuda" || backend == "reference", ExitCode::usage,
                 text("back end '", backend, "'"), "the back ends are cpu, cuda and reference", "");
}

}  // namespace

void add_gpu_option(Options& options, MachineOptions& machine) {
  options.add("gpu", machine.gpu, "N", "index of the GPU, of --backend cuda; default: by the rank on its node");
}

void add_machine_options(Options& options, MachineOptions& machine) {
  options.section("Machine");
  options
      .add("communicator", machine.communicator, "NAME",
           "what carries tensors between ranks. auto: mpi, with --backend cuda nccl, or staged in a build without it; "
           "staged: through host memory, so that ranks can share a GPU; checked: ranks agree on every exchange before "
           "it")
      .choices({"auto", "mpi", "checked", "staged", "nccl"});
  add_gpu_option(options, machine);
  options
      .add("graphs", machine.graphs, "on|off",
           "record the work of a step as CUDA graphs; default: on, but off with staged")
      .choices({"on", "off"});
  options.add("oversubscribe", machine.oversubscribe, "",
              "more ranks on a node than CPUs are meant; also said by mpirun --oversubscribe and srun --overcommit");
}

Precision precision_of(const std::string& backend, const std::string& precision) {
  VITRAIL_EXPECT(precision == "f32" || precision == "bf16", ExitCode::usage, text("--precision ", precision),
                 "products are f32 or bf16", "");
  VITRAIL_EXPECT(precision == "f32" || backend != "reference", ExitCode::usage,
                 text("--backend ", backend, " --precision ", precision), "the reference rounds no inputs of products",
                 "Leave --precision out");
  return precision == "bf16" ? Precision::bf16 : Precision::f32;
}

int choose_gpu(std::optional<std::int64_t> asked, int local_rank, int gpus) {
  if (gpus == 0) return 0;
  VITRAIL_EXPECT(!asked || (*asked >= 0 && *asked < gpus), ExitCode::usage, text("--gpu ", asked.value_or(0)),
                 text("this process sees ", gpus, gpus == 1 ? " GPU: number 0" : " GPUs, counted from 0"),
                 "CUDA_VISIBLE_DEVICES decides which it sees");
  return asked ? static_cast<int>(*asked) : local_rank % gpus;
}

std::string choose_carrier(const std::string& asked, const std::vector<std::string>& gpu_of_rank, bool nccl_is_built) {
  const bool one_rank = gpu_of_rank.size() == 1;
  if (gpu_of_rank.front().empty()) {
    VITRAIL_EXPECT(asked != "staged" && asked != "nccl", ExitCode::usage, text("--communicator ", asked),
                   "it carries tensors of GPUs, and the back end has none", "Leave it out, or use --backend cuda");
    return "mpi";
  }
  VITRAIL_EXPECT(asked != "nccl" || nccl_is_built, ExitCode::usage, "--communicator nccl", "this build has no NCCL",
                 "Use --communicator staged");
  if (one_rank && asked != "staged" && asked != "nccl") return "self";
  VITRAIL_EXPECT(asked != "mpi", ExitCode::usage, "--communicator mpi with --backend cuda on more than one rank",
                 "MPI is given host memory alone", "Use --communicator nccl, or staged, or leave it out");
  const std::set<std::string> distinct(gpu_of_rank.begin(), gpu_of_rank.end());
  VITRAIL_EXPECT(distinct.size() == gpu_of_rank.size() || asked == "staged", ExitCode::usage,
                 text(gpu_of_rank.size(), " ranks have ", distinct.size(), distinct.size() == 1 ? " GPU" : " GPUs",
                      " between them, ", ranks_of_a_shared_gpu(gpu_of_rank)),
                 "ranks that share a GPU are slower than one rank with all its leaves",
                 "Start one rank per GPU; --communicator staged lets ranks share one all the same");
  if (asked == "staged" || asked == "nccl") return asked;
  return nccl_is_built ? "nccl" : "staged";
}

bool choose_graphs(const std::optional<std::string>& asked, const std::string& carrier) {
  VITRAIL_EXPECT(asked != "on" || carrier != "staged", ExitCode::usage, "--graphs on with --communicator staged",
                 "exchanges through host memory cannot be recorded", "Leave --graphs out");
  return asked ? *asked == "on" : carrier != "staged";
}

LocalMachine make_local_machine(const std::string& backend, const std::string& precision, int threads,
                                const MachineOptions& options) {
  expect_known(backend);
  expect_threads(threads);
  const Precision products = precision_of(backend, precision);
  VITRAIL_EXPECT(!options.gpu || backend == "cuda", ExitCode::usage, text("--gpu ", options.gpu.value_or(0)),
                 text("--backend ", backend, " uses none"), "Leave it out, or use --backend cuda");
  LocalMachine machine;
  if (backend == "cuda") {
    const int gpus = static_cast<int>(cuda_devices().size());
    machine.device = make_cuda_device({.index = choose_gpu(options.gpu, 0, gpus), .graphs = false});
    machine.ops = make_cuda_ops(*machine.device, products);
    return machine;
  }
  machine.device = make_cpu_device();
  machine.ops = backend == "cpu" ? make_cpu_ops(threads, products) : make_reference_ops();
  return machine;
}

Machine::Machine(MpiSession& session, const RunConfig& config, const MachineOptions& options, Activity& activity)
    : host_world_(session.world()) {
  expect_known(config.backend);
  expect_threads(config.threads);
  const Precision products = precision_of(config.backend, config.precision);
  choose_device(config, options);
  world_ = host_world_.get();
  if (carrier_ == "self") device_world_ = make_self_communicator(device_.get());
  if (carrier_ == "staged") device_world_ = make_staged_communicator(*host_world_, *device_);
  if (carrier_ == "nccl") device_world_ = make_nccl_communicator(*host_world_, *device_);
  if (device_world_) world_ = device_world_.get();
  if (options.communicator == "checked") {
    checked_ = make_checked_communicator(*world_);
    world_ = checked_.get();
  }
  watched_ = make_watched_communicator(*world_, activity);
  world_ = watched_.get();
  if (config.backend == "cuda") {
    ops_ = make_cuda_ops(*device_, products);
  } else if (config.backend == "reference") {
    ops_ = make_reference_ops(Dtype::f64);
  } else {
    std::int64_t level = cpu_isa_level();
    host_world_->all_min({&level, 1});
    pin_cpu_isa(static_cast<int>(level));
    ops_ = make_cpu_ops(static_cast<int>(config.threads), products);
  }
  ops_->watch(activity);
}

void Machine::choose_device(const RunConfig& config, const MachineOptions& options) {
  std::vector<std::string> gpu_of_rank(static_cast<std::size_t>(host_world_->size()));
  if (config.backend != "cuda") {
    VITRAIL_EXPECT(!options.gpu && options.graphs != "on", ExitCode::usage,
                   text(options.gpu ? "--gpu" : "--graphs on", " with --backend ", config.backend), "it uses no GPU",
                   "Leave it out, or use --backend cuda");
    carrier_ = choose_carrier(options.communicator, gpu_of_rank, nccl_is_built());
    device_ = make_cpu_device();
    return;
  }
  const std::vector<std::string> hosts = host_world_->all_gather_strings(host_name());
  const auto mine = hosts.begin() + host_world_->rank();
  const std::vector<std::string> gpus = cuda_devices();
  const int index =
      choose_gpu(options.gpu, static_cast<int>(std::count(hosts.begin(), mine, *mine)), static_cast<int>(gpus.size()));
  // Making the device comes last, but one that cannot be made is the first thing to say.
  if (gpus.empty()) (void)make_cuda_device({.index = index});
  gpu_of_rank = host_world_->all_gather_strings(*mine + " " + gpus.at(static_cast<std::size_t>(index)));
  gpus_in_use_ = std::ssize(std::set<std::string>(gpu_of_rank.begin(), gpu_of_rank.end()));
  carrier_ = choose_carrier(options.communicator, gpu_of_rank, nccl_is_built());
  graphs_ = choose_graphs(options.graphs, carrier_);
  device_ = make_cuda_device({.index = index, .graphs = graphs_});
}

void Machine::report(const Log& log) const {
  if (device_->kind() != DeviceKind::cuda) return;
  const int ranks = world_->size();
  std::string exchange = "alone";
  if (carrier_ == "nccl") exchange = "exchange through NCCL";
  if (carrier_ == "staged") {
    exchange = text("exchange through host memory (staged",
                    gpus_in_use_ < ranks ? text(": ", ranks, " ranks share ", gpus_in_use_) : "", ")");
  }
  log.info("gpu     ", device_->description(), "; ", ranks, ranks == 1 ? " rank " : " ranks ", exchange,
           "; CUDA graphs ", graphs_ ? "on" : "off");
}

}  // namespace vitrail
