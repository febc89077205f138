#pragma once
// Where the time of a training step went, verb by verb, as a table and as JSON.

#include <string>
#include <vector>

#include "apps/counting_communicator.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "ops/counting_ops.hpp"

namespace vitrail {

/// One line: a verb, an exchange, or what is left.
struct ProfileLine {
  std::string name;
  double calls = 0;  ///< per step, as all of these
  double seconds = 0;
  double flops = 0;
  double bytes = 0;
  bool moves_between_ranks = false;
};

struct Profile {
  std::vector<ProfileLine> lines;  ///< of this rank, most time first; what no line names comes last
  double step_s = 0;               ///< mean over the measured steps
  double flops = 0;                ///< of matrix products, this rank, per step

  Profile(const CountingOps& ops, const CountingCommunicator& world, double steps, double seconds);
};

/// What a rank could do at best.
struct RankCeilings {
  double gflops = 0;
  double copy_GBps = 0;
};

void print_profile(const Log& log, const Profile& profile, const RankCeilings& ceilings);
Json to_json(const Profile& profile, const RankCeilings& ceilings);

}  // namespace vitrail
