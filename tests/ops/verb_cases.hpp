#pragma once
// Calls of every verb on awkward sizes, for the tests that compare back ends. Inputs are the same numbers in every
// dtype; outputs hold garbage before the call.

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {

struct VerbCase {
  std::string name;                                   // of the verb and its sizes: letters, digits and _
  std::function<std::vector<OwnedTensor>(Ops&)> run;  // the verb's outputs, in the dtype of the back end
};

inline std::ostream& operator<<(std::ostream& out, const VerbCase& one) { return out << one.name; }

std::vector<VerbCase> dense_cases();
std::vector<VerbCase> token_cases();
std::vector<VerbCase> routing_cases();
std::vector<VerbCase> soft_router_cases();
std::vector<VerbCase> training_cases();
std::vector<VerbCase> elementwise_cases();
std::vector<VerbCase> update_cases();

/// "linear_forward" and sizes 1, 2: "linear_forward_1_2".
inline std::string case_name(std::string name, std::initializer_list<std::int64_t> sizes) {
  for (const std::int64_t size : sizes) name += "_" + std::to_string(size);
  return name;
}

}  // namespace vitrail::testing
