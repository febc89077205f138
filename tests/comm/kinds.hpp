#pragma once
// The communicators that the tests on ranks try, one after the other.

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "comm/mpi/mpi.hpp"
#include "tests/comm/patterns.hpp"
#include "tests/ranks_main.hpp"

namespace vitrail::test {

struct Kind {
  enum class Over : std::uint8_t { mpi, staged, nccl };
  std::string name;
  Over over = Over::mpi;
  std::int64_t limit_bytes = 0;  ///< per MPI call; 0: the world itself
  bool on_device = false;        ///< whether tensors are device memory
  bool checked = false;          ///< whether the ranks agree before each verb
  bool watched = false;          ///< whether verbs are marked in an Activity
  friend std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }
};

/// Those whose tensors are device memory. tests.cmake says what there is: VITRAIL_TEST_MPI, VITRAIL_TEST_DEVICE (a GPU
/// or the emulation of one) and VITRAIL_TEST_NCCL.
inline std::vector<Kind> device_kinds() {
  std::vector<Kind> kinds;
#ifdef VITRAIL_TEST_DEVICE
  kinds.push_back({"Staged", Kind::Over::staged, 0, true});
#ifdef VITRAIL_TEST_MPI
  kinds.push_back({"StagedCutTo997", Kind::Over::staged, 997, true});
#endif
  kinds.push_back({"WatchedCheckedStaged", Kind::Over::staged, 0, true, true, true});
#endif
#ifdef VITRAIL_TEST_NCCL
  kinds.push_back({"Nccl", Kind::Over::nccl, 0, true});
#endif
  return kinds;
}

/// All. 1 and 5 cut everything to single bytes per rank, the other limits to uneven pieces.
inline std::vector<Kind> all_kinds() {
  std::vector<Kind> kinds{{"Whole"}, {"Watched", Kind::Over::mpi, 0, false, false, true}};
#ifdef VITRAIL_TEST_MPI
  for (const std::int64_t limit : {1, 5, 997, 50'000}) {
    kinds.push_back({text("CutTo", limit), Kind::Over::mpi, limit});
  }
#endif
#ifdef VITRAIL_TEST_DEVICE
  kinds.push_back({"StagedHostMemory", Kind::Over::staged});
#endif
  for (const Kind& kind : device_kinds()) kinds.push_back(kind);
  return kinds;
}

inline std::string name_of_kind(const ::testing::TestParamInfo<Kind>& kind) { return kind.param.name; }

/// A communicator of one kind over all ranks, and blocks in the memory that it is tried with.
class OnRanks : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    const Kind& kind = GetParam();
    // NCCL wants a GPU for every rank.
    if (kind.over == Kind::Over::nccl && world().size() > 1) GTEST_SKIP() << "one rank alone has a GPU of its own";
    if (kind.limit_bytes > 0) made_.push_back(duplicate_with_call_limit(world(), kind.limit_bytes));
    if (kind.over != Kind::Over::mpi) device_ = make_cuda_device({.graphs = false});
    if (kind.over == Kind::Over::staged) made_.push_back(make_staged_communicator(ranks(), *device_));
    if (kind.over == Kind::Over::nccl) made_.push_back(make_nccl_communicator(ranks(), *device_));
    if (kind.checked) made_.push_back(make_checked_communicator(ranks()));
    if (kind.watched) made_.push_back(make_watched_communicator(ranks(), activity_));
  }
  void TearDown() override {
    while (!made_.empty()) made_.pop_back();
  }
  Communicator& ranks() { return made_.empty() ? world() : *made_.back(); }
  /// Null for communicators over host memory.
  Device* device() { return device_.get(); }
  Block make_block(Dtype dtype, std::int64_t elements) {
    return Block(dtype, elements, GetParam().on_device ? device_.get() : nullptr);
  }
  /// Too many MPI calls for a test.
  [[nodiscard]] bool too_long(Dtype dtype, std::int64_t elements) const {
    return GetParam().limit_bytes > 0 && elements * size_of(dtype) > 60 * GetParam().limit_bytes;
  }

 private:
  Activity activity_;
  std::unique_ptr<Device> device_;
  std::vector<std::unique_ptr<Communicator>> made_;  // each over the one before
};

}  // namespace vitrail::test
