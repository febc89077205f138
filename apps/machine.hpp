#pragma once
// What a rank computes with and how its tensors travel: device, back end and communicators, made in this one place from
// the options of every program.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/options.hpp"
#include "base/activity.hpp"
#include "base/log.hpp"
#include "comm/mpi/mpi.hpp"
#include "device/device.hpp"
#include "ops/ops.hpp"
#include "train/run_config.hpp"

namespace vitrail {

/// Which of the machine's parts are used. No choice changes a bit of the results.
struct MachineOptions {
  std::string communicator = "auto";
  std::optional<std::int64_t> gpu = {};    ///< index among those that this process sees; none: by the rank on its node
  std::optional<std::string> graphs = {};  ///< "on", "off"; none: on where the communicator allows it
  bool oversubscribe = false;              ///< more ranks on a node than CPUs are meant (apps/launch_check)
};

/// Adds --communicator, --gpu, --graphs and --oversubscribe.
void add_machine_options(Options& options, MachineOptions& machine);
/// Adds --gpu alone, for programs of one process.
void add_gpu_option(Options& options, MachineOptions& machine);

/// Of --precision NAME with --backend NAME. Error (usage) for one that the back end has not got.
Precision precision_of(const std::string& backend, const std::string& precision);

// --- the decisions, apart from what they are made for ----------------------------------------------------------------

/// The index of the GPU for a rank that is number `local_rank` of its node and sees `gpus` GPUs: the one asked for, or
/// local_rank modulo gpus. Error (usage) for one that is not there; 0 where there is none, so that making the device
/// says what is wrong.
int choose_gpu(std::optional<std::int64_t> asked, int local_rank, int gpus);

/// "self", "mpi", "staged" or "nccl", the carrier between ranks that compute on the GPUs of these identities, one for
/// every rank (empty for other back ends than cuda). Error (usage) when `asked` cannot carry their tensors, or when two
/// ranks have one GPU and `asked` is not staged. "checked" is a check above the carrier that auto stands for.
std::string choose_carrier(const std::string& asked, const std::vector<std::string>& gpu_of_rank, bool nccl_is_built);

/// Whether the step is recorded as CUDA graphs. Error (usage) for "on" with a carrier that cannot be recorded.
bool choose_graphs(const std::optional<std::string>& asked, const std::string& carrier);

// --- what is made ----------------------------------------------------------------------------------------------------

/// Device and back end of a program of one process.
struct LocalMachine {
  std::unique_ptr<Device> device;
  std::unique_ptr<Ops> ops;
};
/// Error (usage) for a back end or precision that is not there, and when there is no usable GPU for cuda.
LocalMachine make_local_machine(const std::string& backend, const std::string& precision, int threads,
                                const MachineOptions& options);

class Machine {
 public:
  /// Of a run on the ranks of `session`, which must outlive it, as must `activity`, in which verbs and collectives are
  /// marked; cpu: on the lowest instruction set of all ranks, so that all compute the same bits. Collective. Errors as
  /// above.
  Machine(MpiSession& session, const RunConfig& config, const MachineOptions& options, Activity& activity);

  [[nodiscard]] Device& device() const noexcept { return *device_; }
  [[nodiscard]] Ops& ops() const noexcept { return *ops_; }
  /// Carries tensors of the device, and of the host.
  [[nodiscard]] Communicator& world() const noexcept { return *world_; }
  /// The same ranks with tensors of the host alone: what needs no more splits this one off.
  [[nodiscard]] Communicator& host_world() const noexcept { return *host_world_; }
  /// "self", "mpi", "staged", "nccl".
  [[nodiscard]] const std::string& carrier() const noexcept { return carrier_; }
  /// Whether the device records what it can as graphs.
  [[nodiscard]] bool graphs() const noexcept { return graphs_; }
  /// Which GPUs there are, how ranks exchange, and why: one line at the start, none on the cpu.
  void report(const Log& log) const;

 private:
  void choose_device(const RunConfig& config, const MachineOptions& options);

  std::unique_ptr<Communicator> host_world_;    // MPI
  std::unique_ptr<Device> device_;              // outlives what carries its tensors, and its back end
  std::unique_ptr<Communicator> device_world_;  // over the one above; none on the cpu
  std::unique_ptr<Communicator> checked_;       // over the ones above; none unless asked for
  std::unique_ptr<Communicator> watched_;       // over all
  std::unique_ptr<Ops> ops_;
  Communicator* world_ = nullptr;
  std::string carrier_;
  bool graphs_ = false;
  std::int64_t gpus_in_use_ = 0;  // over all ranks
};

}  // namespace vitrail
