// Position embeddings without parameters. [V-MoE]

#include <cmath>

#include <gtest/gtest.h>

#include "model/positions.hpp"
#include "tests/model/small_model.hpp"

namespace vitrail::testing {
namespace {

// 2 x 2 patches, D = 8: omega = 1, 1/10000.
TEST(SincosPositions, PutTheColumnBeforeTheRow) {
  const std::vector<double> all = sincos2d_positions(small_config());
  ASSERT_EQ(all.size(), 5U * 8U);
  const double w = 1e-4;
  const std::vector<double> of_row_1_column_0 = {0, 0, 1, 1, std::sin(1), std::sin(w), std::cos(1), std::cos(w)};
  const std::vector<double> of_row_0_column_1 = {std::sin(1), std::sin(w), std::cos(1), std::cos(w), 0, 0, 1, 1};
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(all[i], 0) << "the class token has none";
    EXPECT_NEAR(all[2 * 8 + i], of_row_0_column_1[i], 1e-15) << i;
    EXPECT_NEAR(all[3 * 8 + i], of_row_1_column_0[i], 1e-15) << i;
  }
}

TEST(SincosPositions, FollowTheTemperatureAndTheGrid) {
  ModelConfig c = small_config();
  c.classifier = Classifier::gap;
  c.image_width = 12;  // 2 rows of 3
  c.width = 12;
  c.position_temperature = 16;  // omega = 1, 1/4, 1/16
  const std::vector<double> all = sincos2d_positions(c);
  ASSERT_EQ(all.size(), 6U * 12U);
  const double* last = all.data() + 5 * 12;  // row 1, column 2
  EXPECT_NEAR(last[1], std::sin(2.0 / 4), 1e-15);
  EXPECT_NEAR(last[5], std::cos(2.0 / 16), 1e-15);
  EXPECT_NEAR(last[8], std::sin(1.0 / 16), 1e-15);
}

TEST(SincosPositions, AreAddedToTheTokens) {
  ModelConfig c = small_config();
  c.positions = PositionEmbedding::sincos2d;
  ModelConfig without = c;
  without.positions = PositionEmbedding::none;
  SmallModel with(c, Dtype::f64, 1, 2);
  SmallModel plain(without, Dtype::f64, 1, 2);
  with.total_loss();
  plain.total_loss();
  const std::vector<double> positions = sincos2d_positions(c);
  const std::vector<double> x = to_doubles(with.acts.x0);
  const std::vector<double> y = to_doubles(plain.acts.x0);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i] - y[i], positions[i % positions.size()], 1e-14) << i;
}

}  // namespace
}  // namespace vitrail::testing
