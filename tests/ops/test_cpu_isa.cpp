#include <cstdlib>
#include <iostream>

#include <gtest/gtest.h>

#include "ops/cpu/cpu_isa.hpp"
#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

/// Exit status 0 if every case agrees with the reference at this level, in a process that has not used oneDNN yet.
[[noreturn]] void compare_at(int level) {
  pin_cpu_isa(level);
  if (cpu_isa_level() != level) {
    std::cerr << "pinned " << level << ", the level is " << cpu_isa_level() << "\n";
    std::exit(2);
  }
  const auto reference = make_reference_ops();
  const auto cpu = make_cpu_ops(2);
  const auto in_bf16 = make_cpu_ops(2, Precision::bf16);
  int wrong = 0;
  for (auto* cases : {dense_cases, token_cases, routing_cases, training_cases, elementwise_cases}) {
    for (const VerbCase& one : cases()) {
      const bool large = one.name.find("_520_") != std::string::npos || one.name.find("_400_") != std::string::npos ||
                         one.name.find("_1600_") != std::string::npos;
      if (large) continue;  // the reference is slow, and the kernels are the same
      const std::vector<OwnedTensor> expected = one.run(*reference);
      const double rounding = one.name.ends_with("_sharp") ? 8e-2 : 2e-2;
      for (const auto& [ops, tolerance] : {std::pair{cpu.get(), 1e-5}, std::pair{in_bf16.get(), rounding}}) {
        const std::vector<OwnedTensor> got = one.run(*ops);
        for (std::size_t i = 0; i < got.size(); ++i) {
          const double difference = largest_difference(got[i], expected[i]);
          if (difference <= tolerance * std::max(1.0, expected[i].largest())) continue;
          std::cerr << one.name << " output " << i << " is off by " << difference << "\n";
          ++wrong;
        }
      }
    }
  }
  std::exit(wrong == 0 ? 0 : 1);
}

class CpuIsa : public ::testing::TestWithParam<int> {};

TEST_P(CpuIsa, EveryVerbAgreesWithTheReferenceWhenPinned) {
  if (GetParam() > cpu_isa_level()) GTEST_SKIP() << "this machine has no " << cpu_isa_name(GetParam());
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a new process
  EXPECT_EXIT(compare_at(GetParam()), ::testing::ExitedWithCode(0), "");
}

INSTANTIATE_TEST_SUITE_P(Levels, CpuIsa, ::testing::Range(0, 6),
                         [](const auto& one) { return std::string(cpu_isa_name(one.param)); });

TEST(CpuIsa, RefusesALevelThatTheMachineHasNotGot) {
  for (const int level : {-1, cpu_isa_level() + 1}) {
    try {
      pin_cpu_isa(level);
      FAIL() << "level " << level;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
    }
  }
}

}  // namespace
}  // namespace vitrail::testing
