#pragma once
// A GPU, or its emulation, with the cuda back end, for the tests of its verbs.

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {

/// A device with its back end. Tensors of the test are on it.
struct Gpu {
  explicit Gpu(Precision precision = Precision::f32) : ops(make_cuda_ops(*device, precision)) {}
  std::unique_ptr<Device> device = make_cuda_device();
  OnDevice here{*device};
  std::unique_ptr<Ops> ops;
};

inline void expect_same(const std::vector<OwnedTensor>& got, const std::vector<OwnedTensor>& expected,
                        const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bits(got[i], expected[i])) << "output " << i << what;
}

}  // namespace vitrail::testing
