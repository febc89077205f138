#pragma once
// What vitrail-doctor finds, gathered over ranks. Checks are in the doctor_*.hpp: each looks at something and judges
// it, the judgement apart from the looking.

#include <iosfwd>
#include <string>
#include <vector>

#include "base/json.hpp"

namespace vitrail {

enum class Health { ok, warn, bad };

/// "ok", "warn", "bad"
const char* name_of(Health health);

struct Finding {
  friend bool operator==(const Finding&, const Finding&) = default;

  Health health = Health::ok;
  std::string check;    ///< one word: "limits"
  std::string said;     ///< what was found
  std::string advice;   ///< what to try; empty when all is well
  bool of_job = false;  ///< about all ranks together, as rank 0 says it
};
using Findings = std::vector<Finding>;

Finding ok(std::string check, std::string said);
Finding warn(std::string check, std::string said, std::string advice);
Finding bad(std::string check, std::string said, std::string advice);
Finding of_job(Finding finding);

Json to_json(const Findings& findings);
/// Error (other) for other texts than those of to_json().
Findings findings_from_json(const Json& json);

/// A finding of one or more ranks.
struct SharedFinding {
  Finding finding;
  std::vector<int> ranks;
};

/// One entry for what several ranks found alike, in the order in which the lowest ranks found it, the checks together:
/// the same check with the same advice, where the words of the lowest rank stand for all; but what is bad must be the
/// same to the letter.
std::vector<SharedFinding> shared(const std::vector<Findings>& of_ranks);

/// Who found it, of ranks on these hosts: "" for all, "n2 n3" for whole nodes, for which their first rank speaks,
/// "ranks 1 5" else; eight names at most.
std::string who_text(const std::vector<int>& ranks, const std::vector<std::string>& hosts);

/// A line for each, and one that counts them.
void print_findings(std::ostream& out, const std::vector<SharedFinding>& all, const std::vector<std::string>& hosts);

}  // namespace vitrail
