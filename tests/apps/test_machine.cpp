#include <gtest/gtest.h>

#include "apps/machine.hpp"

namespace vitrail {
namespace {

/// The usage error that `work` ends with; "" when there is none.
template <class Work>
std::string refusal(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage) << error.what();
    return error.what();
  }
  return {};
}

const std::vector<std::string> kNoGpu{""};
const std::vector<std::string> kNoGpus{"", ""};
const std::vector<std::string> kOneGpu{"n1 a"};
const std::vector<std::string> kOwnGpus{"n1 a", "n1 b", "n2 a"};  // the same identity on another node is another GPU
const std::vector<std::string> kSharedGpu{"n1 a", "n1 b", "n1 a"};

TEST(PrecisionOf, IsBf16OnTheFastBackEndsAlone) {
  EXPECT_EQ(precision_of("cpu", "f32"), Precision::f32);
  EXPECT_EQ(precision_of("cpu", "bf16"), Precision::bf16);
  EXPECT_EQ(precision_of("cuda", "bf16"), Precision::bf16);
  EXPECT_EQ(precision_of("reference", "f32"), Precision::f32);
  for (const auto& [backend, precision] : {std::pair{"reference", "bf16"}, std::pair{"cpu", "f16"}}) {
    EXPECT_NE(refusal([&, b = backend, p = precision] { (void)precision_of(b, p); }), "");
  }
}

TEST(ChooseGpu, GoesRoundTheGpusOfTheNode) {
  for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(choose_gpu({}, rank, 4), rank % 4);
  EXPECT_EQ(choose_gpu({}, 3, 1), 0);  // a batch system gave every rank one of its own
  EXPECT_EQ(choose_gpu(2, 0, 4), 2);
}

TEST(ChooseGpu, RefusesOneThatIsNotThere) {
  EXPECT_NE(refusal([] { (void)choose_gpu(1, 0, 1); }).find("--gpu 1"), std::string::npos);
  EXPECT_NE(refusal([] { (void)choose_gpu(-1, 0, 4); }), "");
}

TEST(ChooseCarrier, IsMpiForHostTensors) {
  for (const char* asked : {"auto", "mpi", "checked"}) {
    EXPECT_EQ(choose_carrier(asked, kNoGpu, true), "mpi");
    EXPECT_EQ(choose_carrier(asked, kNoGpus, true), "mpi");
  }
  for (const char* asked : {"staged", "nccl"}) {
    EXPECT_NE(refusal([&] { (void)choose_carrier(asked, kNoGpus, true); }), "") << asked;
  }
}

TEST(ChooseCarrier, IsNobodyForOneGpu) {
  for (const char* asked : {"auto", "mpi", "checked"}) EXPECT_EQ(choose_carrier(asked, kOneGpu, true), "self");
  EXPECT_EQ(choose_carrier("nccl", kOneGpu, true), "nccl");
  EXPECT_EQ(choose_carrier("staged", kOneGpu, false), "staged");
}

TEST(ChooseCarrier, IsNcclBetweenGpusWhereItIsBuilt) {
  for (const char* asked : {"auto", "checked"}) {
    EXPECT_EQ(choose_carrier(asked, kOwnGpus, true), "nccl");
    EXPECT_EQ(choose_carrier(asked, kOwnGpus, false), "staged");
  }
  EXPECT_EQ(choose_carrier("staged", kOwnGpus, true), "staged");
  EXPECT_NE(refusal([] { (void)choose_carrier("nccl", kOwnGpus, false); }).find("no NCCL"), std::string::npos);
  EXPECT_NE(refusal([] { (void)choose_carrier("mpi", kOwnGpus, true); }), "");
}

TEST(ChooseCarrier, LetsRanksShareAGpuOnlyWhenToldSo) {
  EXPECT_EQ(choose_carrier("staged", kSharedGpu, true), "staged");
  for (const char* asked : {"auto", "checked", "nccl"}) {
    const std::string said = refusal([&] { (void)choose_carrier(asked, kSharedGpu, true); });
    EXPECT_NE(said.find("3 ranks have 2 GPUs between them"), std::string::npos) << asked << ": " << said;
    EXPECT_NE(said.find("--communicator staged"), std::string::npos) << asked << ": " << said;
  }
}

TEST(ChooseGraphs, AreOnWhereTheyCanBe) {
  EXPECT_TRUE(choose_graphs({}, "self"));
  EXPECT_TRUE(choose_graphs({}, "nccl"));
  EXPECT_FALSE(choose_graphs({}, "staged"));
  EXPECT_FALSE(choose_graphs("off", "nccl"));
  EXPECT_NE(refusal([] { (void)choose_graphs("on", "staged"); }), "");
}

TEST(LocalMachine, RefusesAGpuForABackEndThatUsesNone) {
  EXPECT_NE(refusal([] { (void)make_local_machine("cpu", "f32", 1, {.gpu = 0}); }), "");
  EXPECT_NE(refusal([] { (void)make_local_machine("gpu", "f32", 1, {}); }), "");
  EXPECT_NE(refusal([] { (void)make_local_machine("cpu", "f32", 0, {}); }), "");
  EXPECT_EQ(make_local_machine("reference", "f32", 1, {}).ops->real(), Dtype::f64);
}

}  // namespace
}  // namespace vitrail
