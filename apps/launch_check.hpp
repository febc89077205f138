#pragma once
// What is wrong about how a job was started is said before it computes: too many ranks for a node, ranks of different
// programs or with different settings.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/options.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "comm/mpi/mpi.hpp"

namespace vitrail {

/// What ranks tell each other at the start.
struct RankFacts {
  std::string host;
  std::string cpus;               ///< those it may run on, four to a hexadecimal digit, the first ones first
  std::int64_t claimed_cpus = 0;  ///< of a simulated node, which claims more than the machine has; else 0
  std::string binary;             ///< SHA-256 of the program
  std::string settings;           ///< SHA-256 of compared_settings()
};
Json to_json(const RankFacts& facts);
RankFacts rank_facts(const Json& json);

/// The CPUs that the calling thread may run on, as RankFacts::cpus.
std::string cpus_of_thread();

/// Whether the user has told the launcher that more ranks than CPUs are meant: mpirun --oversubscribe (Open MPI 4 and
/// 5), srun --overcommit. `variable` is std::getenv, but in tests.
bool launcher_oversubscribes(const std::function<const char*(const char*)>& variable);

/// Error (usage) when a host has more ranks than its ranks have CPUs together, unless `oversubscribe`. Otherwise a
/// warning when threads are more, if there is anything to warn of.
std::optional<std::string> expect_enough_cpus(const std::vector<RankFacts>& ranks, std::int64_t threads,
                                              bool oversubscribe);

/// Error (usage) that names the first ranks with another program than rank 0.
void expect_same_binary(const std::vector<RankFacts>& ranks);

/// The settings in which ranks must agree: all but those that may say where this rank finds things (--gpu, --data), and
/// what was merged already (--preset, --config). The data is compared by what is in it.
Json compared_settings(const Options& options, const std::string& data_fingerprint);

/// Error (usage) that names the first ranks whose settings (one text of compared_settings() each) differ from those of
/// rank 0, and in what.
void expect_same_settings(const std::vector<std::string>& settings, const std::vector<RankFacts>& ranks);

struct LaunchSettings {
  std::int64_t threads = 1;
  bool oversubscribe = false;  ///< the user's --oversubscribe
  std::string data_fingerprint;
};
/// All of the above, for the ranks of `session`. Collective; to be called before anything else that is, as soon as the
/// settings are known: ranks that differ would wait for each other in different calls. Warnings go to `log`. First the
/// threads of a rank get CPUs where mpirun forgot them (apps/cpu_binding.hpp): before any of them is started.
void check_launch(MpiSession& session, const Log& log, const Options& options, const LaunchSettings& settings);

}  // namespace vitrail
