#include <gtest/gtest.h>

#include "apps/checkpoint_upcycle.hpp"
#include "device/host_values.hpp"
#include "tests/apps/converted_models.hpp"
#include "tests/convert/model_samples.hpp"
#include "tests/errors.hpp"
#include "tests/scratch_folder.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using testing::model_of_settings;
using testing::parameter;

class Upcycle : public ::testing::Test {
 protected:
  Upcycle() { testing::write_run(at("dense"), testing::vit_sample(), 5); }
  [[nodiscard]] std::string at(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string upcycle(std::vector<std::string> words) {
    ::testing::internal::CaptureStdout();
    EXPECT_EQ(testing::run_command(checkpoint_upcycle, std::move(words)), 0);
    return ::testing::internal::GetCapturedStdout();
  }
  testing::ScratchFolder folder_;
};

TEST_F(Upcycle, MakesEveryExpertACopyAndRoutersFresh) {
  const std::string said = upcycle({at("dense"), at("moe"), "--moe", "1-2", "--experts", "4", "--seed", "11"});
  EXPECT_NE(said.find("tiled into all experts:"), std::string::npos) << said;
  EXPECT_NE(said.find("--normalize-gates"), std::string::npos) << said;
  const CheckpointReader dense(at("dense"));
  const CheckpointReader moe(at("moe"));
  EXPECT_EQ(moe.info().step, 0);
  ModelConfig model = testing::vit_sample();
  model.moe_blocks = {1, 2};
  model.experts = 4;
  EXPECT_EQ(model_of_settings(moe.info().config), model);
  const std::vector<float> mlp = parameter(dense, "Encoder/encoderblock_2/Mlp/Dense_0/kernel");
  const std::vector<float> experts = parameter(moe, "Encoder/encoderblock_2/Moe/Mlp/Dense_0/kernel");
  ASSERT_EQ(experts.size(), 4 * mlp.size());
  for (std::size_t i = 0; i < experts.size(); ++i) EXPECT_EQ(experts[i], mlp[i % mlp.size()]);
  EXPECT_EQ(parameter(moe, "head/kernel"), parameter(dense, "head/kernel"));
  // The router is that of a new run with this seed.
  const std::vector<ParameterSpec> table = parameter_table(model);
  const std::string router = "Encoder/encoderblock_2/Moe/Router/dense/kernel";
  const std::unique_ptr<Ops> ops = make_cpu_ops(1);
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].name != router) continue;
    std::vector<float> fresh(static_cast<std::size_t>(table[i].shape.elements()));
    initialize(*ops, table[i], 11, static_cast<std::uint32_t>(i), true, 0, {fresh.data(), table[i].shape, Dtype::f32});
    EXPECT_EQ(parameter(moe, router), fresh);
  }
}

TEST_F(Upcycle, ResizesPositionsAndChangesClasses) {
  upcycle({at("dense"), at("moe.safetensors"), "--moe", "every-2", "--experts", "2", "--normalize-gates",
           "--image-height", "40", "--image-width", "40", "--classes", "7"});
  const ModelFile file(at("moe.safetensors"), ModelFormat::safetensors, false, {});
  EXPECT_EQ(file.shaped().model.tokens(), 26);
  EXPECT_EQ(file.shaped().model.classes, 7);
  EXPECT_EQ(file.shaped().model.moe_blocks, std::vector<std::int64_t>{1});
}

TEST_F(Upcycle, RefusesToUpcycleNothing) {
  const Error error = error_of([&] { upcycle({at("dense"), at("moe")}); });
  (void)::testing::internal::GetCapturedStdout();
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_NE(std::string(error.what()).find("no block is upcycled"), std::string::npos) << error.what();
  EXPECT_FALSE(std::filesystem::exists(at("moe")));
}

}  // namespace
}  // namespace vitrail
