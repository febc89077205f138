#pragma once
// What several ranks do apart must go well on all of them, or count as failed on all: each phase of such work ends with
// an agreement.

#include <optional>
#include <string>

#include "base/error.hpp"
#include "comm/communicator.hpp"

namespace vitrail {

/// The first rank that failed, as all ranks know it.
struct RankFault {
  int rank = 0;
  std::string host;
  int failed = 0;  ///< ranks that failed
  Fault fault;     ///< of the first

  /// "rank 3 on n2 (and 2 more ranks)"
  [[nodiscard]] std::string who() const;
};

/// Runs one rank's share of a phase; what it throws is kept for the agreement that follows.
template <class Work>
std::optional<Fault> attempt(Work work) {
  try {
    work();
    return std::nullopt;
  } catch (const Error& error) {
    return error.fault();
  } catch (const std::exception& error) {
    return Fault{error.what(), "", ""};
  }
}

/// Nothing if no rank failed. Collective.
std::optional<RankFault> agree_on_fault(Communicator& ranks, const std::optional<Fault>& mine);

}  // namespace vitrail
