#pragma once
// Where the time of a training step went, verb by verb and by kinds of verbs, as tables and as JSON.

#include <string>
#include <vector>

#include "apps/counting_communicator.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "ops/counting_ops.hpp"

namespace vitrail {

/// What a rank could do at best. Without exponentials (the cpu) matrix products are held against GEMM peak and all else
/// against copy bandwidth; with them, every verb against the largest of the three times.
struct RankCeilings {
  double gflops = 0;
  double copy_GBps = 0;
  double exponentials_per_s = 0;  ///< 0: not measured
};

/// One line: a verb, a kind of verbs, an exchange, or what is left.
struct ProfileLine {
  std::string name;
  std::string kind;  ///< of verbs: "matrix products", "attention forward", ...; empty for other lines
  double calls = 0;  ///< per step, as all of these
  double seconds = 0;
  double flops = 0;
  double bytes = 0;
  double exponentials = 0;
  double ceiling_s = 0;    ///< what it would take at best; 0: has no ceiling
  const char* bound = "";  ///< what that is: "gemm", "copy", "exponentials"; of a kind, of the line with most time
};

struct Profile {
  std::vector<ProfileLine> lines;  ///< of this rank, most time first; what no line names comes last
  std::vector<ProfileLine> kinds;  ///< the verbs among them, added up by their kinds, most time first
  double step_s = 0;               ///< mean over the measured steps
  double flops = 0;                ///< of matrix products, this rank, per step

  /// Of `steps` steps that took `seconds` together.
  Profile(CountingOps& ops, const CountingCommunicator& world, double steps, double seconds);
  void hold_against(const RankCeilings& ceilings);
};

/// The kind of a verb: what binds it, and what one would work on to make it faster.
std::string kind_of_verb(std::string_view verb);

/// In GFLOP/s and GB/s, or in TFLOP/s and TB/s.
enum class ProfileUnits { giga, tera };
void print_profile(const Log& log, const std::vector<ProfileLine>& lines, double step_s, const std::string& title,
                   ProfileUnits units);
Json to_json(const std::vector<ProfileLine>& lines, double step_s);

}  // namespace vitrail
