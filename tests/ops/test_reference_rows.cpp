// The movement of rows to and from expert buffers: worked examples of the official implementation.

#include <gtest/gtest.h>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {
namespace {

class ReferenceRows : public ::testing::Test {
 protected:
  std::unique_ptr<Ops> ops_ = make_reference_ops();
};

TEST_F(ReferenceRows, DispatchAndCombineOfTheWorkedExample) {
  // Two groups of three tokens, rows of 1s .. 6s; E = 2, C = 2; slot 9 = an assignment that was dropped.
  OwnedTensor x(Dtype::f64, {6, 4});
  for (std::int64_t i = 0; i < 24; ++i) x.set(i, static_cast<double>(i / 4 + 1));
  const OwnedTensor selected(Dtype::i32, {1, 2, 3, 2}, {1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1});
  const OwnedTensor slot(Dtype::i32, {1, 2, 3, 2}, {0, 9, 0, 9, 1, 1, 0, 1, 1, 9, 9, 0});
  const OwnedTensor gate(Dtype::f64, {6, 2}, {.7, .3, .7, .3, .7, .3, .7, .3, .7, .3, .7, .3});
  OwnedTensor source(Dtype::i32, {1, 1, 2, 4}), row(Dtype::i32, {1, 2, 3, 2});
  ops_->map_slots({.selected = selected, .slot = slot, .capacity = 2, .source = source, .row = row});
  OwnedTensor buffer(Dtype::f64, {8, 4}), y(Dtype::f64, {6, 4});
  ops_->gather_rows_forward({.x = x, .source = source.view().view({8}), .choices = 2, .y = buffer});
  const double in_buffer[] = {2, 3, 4, 5, 1, 3, 6, 4};
  for (std::int64_t i = 0; i < 32; ++i) EXPECT_EQ(buffer.get(i), in_buffer[i / 4]);
  ops_->combine_rows_forward({.o = buffer, .row = row.view().view({6, 2}), .gate = gate, .residual = {}, .y = y});
  const double combined[] = {.7, 1.4, 3, 4, 3.5, 1.8};
  for (std::int64_t i = 0; i < 24; ++i) EXPECT_NEAR(y.get(i), combined[i / 4], 1e-15);
}

TEST_F(ReferenceRows, ASparseLayerIsTheSameForEveryNumberOfOwners) {
  // 32 items 10 (i + 1) in groups of 4; expert e adds 1 + e; item i goes to experts 2i and 2i + 1 (mod 4).
  OwnedTensor x(Dtype::f64, {32, 1}), gate(Dtype::f64, {32, 2}), expected(Dtype::f64, {32, 1});
  for (std::int64_t i = 0; i < 32; ++i) {
    const double item = 10.0 * static_cast<double>(i + 1);
    x.set(i, item);
    gate.set(2 * i, .7);
    gate.set(2 * i + 1, .3);
    expected.set(i, item + .7 * static_cast<double>(1 + 2 * i % 4) + .3 * static_cast<double>(1 + (2 * i + 1) % 4));
  }
  for (const std::int64_t owners : {1, 2, 4}) {
    for (const std::int64_t leaves : {1, 2, 8}) {
      const Shape chosen{leaves, 8 / leaves, 4, 2}, rows{owners, leaves, 4 / owners, 8 / leaves * 2};
      OwnedTensor selected(Dtype::i32, chosen), slot(Dtype::i32, chosen), row(Dtype::i32, chosen);
      OwnedTensor source(Dtype::i32, rows), buffer(Dtype::f64, {64, 1}), y(Dtype::f64, {32, 1});
      for (std::int64_t i = 0; i < 32; ++i) {
        for (std::int64_t j = 0; j < 2; ++j) {
          selected.set(2 * i + j, static_cast<double>((2 * i + j) % 4));
          slot.set(2 * i + j, static_cast<double>(i % 4 / 2));
        }
      }
      ops_->map_slots({.selected = selected, .slot = slot, .capacity = 2, .source = source, .row = row});
      ops_->gather_rows_forward({.x = x, .source = source.view().view({64}), .choices = 2, .y = buffer});
      for (std::int64_t r = 0; r < 64; ++r) {
        EXPECT_GE(source.get(r), 0.0) << "every slot is taken";
        const std::int64_t block = r / rows[3], owner = block / rows[2] / leaves;
        const std::int64_t expert = owner * rows[2] + block % rows[2];
        buffer.set(r, buffer.get(r) + static_cast<double>(1 + expert));
      }
      ops_->combine_rows_forward({.o = buffer, .row = row.view().view({32, 2}), .gate = gate, .residual = {}, .y = y});
      EXPECT_LE(largest_difference(y, expected), 1e-12) << owners << " owners, " << leaves << " leaves";
    }
  }
}

TEST_F(ReferenceRows, DroppedAssignmentsAndEmptyRowsGiveZeros) {
  const OwnedTensor selected(Dtype::i32, {1, 1, 3, 1}, {0, 0, 0}), slot(Dtype::i32, {1, 1, 3, 1}, {0, 1, -1});
  OwnedTensor source(Dtype::i32, {1, 1, 2, 1}), row(Dtype::i32, {1, 1, 3, 1});
  ops_->map_slots({.selected = selected, .slot = slot, .capacity = 1, .source = source, .row = row});
  EXPECT_EQ(source.values(), (std::vector<double>{0, -1}));
  EXPECT_EQ(row.values(), (std::vector<double>{0, -1, -1}));
  const OwnedTensor x = random_tensor(Dtype::f64, {3, 2}, 1), gate = random_tensor(Dtype::f64, {3, 1}, 2);
  OwnedTensor buffer(Dtype::f64, {2, 2}), y(Dtype::f64, {3, 2});
  ops_->gather_rows_forward({.x = x, .source = source.view().view({2}), .choices = 1, .y = buffer});
  EXPECT_EQ(buffer.values(), (std::vector<double>{x.get(0), x.get(1), 0, 0}));
  ops_->combine_rows_forward({.o = buffer, .row = row.view().view({3, 1}), .gate = gate, .residual = {}, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{gate.get(0) * x.get(0), gate.get(0) * x.get(1), 0, 0, 0, 0}));
  OwnedTensor d_o(Dtype::f64, {2, 2}), dgate(Dtype::f64, {3, 1});
  ops_->combine_rows_backward({.dy = x,
                               .o = buffer,
                               .row = row.view().view({3, 1}),
                               .source = source.view().view({2}),
                               .gate = gate,
                               .d_o = d_o,
                               .dgate = dgate});
  EXPECT_EQ(d_o.values(), (std::vector<double>{gate.get(0) * x.get(0), gate.get(0) * x.get(1), 0, 0}));
  EXPECT_EQ(dgate.values(), (std::vector<double>{x.get(0) * x.get(0) + x.get(1) * x.get(1), 0, 0}));
}

TEST_F(ReferenceRows, CountsAssignmentsAndThoseThatFit) {
  const OwnedTensor selected(Dtype::i32, {3, 2}, {0, 1, 0, 1, 0, 3}), slot(Dtype::i32, {3, 2}, {0, 0, 1, -1, 2, 0});
  OwnedTensor assigned(Dtype::i64, {4}), kept(Dtype::i64, {4}), processed(Dtype::i64, {1});
  ops_->count_assignments(
      {.selected = selected, .slot = slot, .capacity = 2, .assigned = assigned, .kept = kept, .processed = processed});
  EXPECT_EQ(assigned.values(), (std::vector<double>{3, 1, 0, 1}));
  EXPECT_EQ(kept.values(), (std::vector<double>{2, 1, 0, 1}));
  EXPECT_EQ(processed.get(0), 3);
}

TEST_F(ReferenceRows, NormalizedGatesOfTheKeptChoicesAddUpToOne) {
  // Both kept, the second dropped, both dropped, and kept gates that underflowed to 0.
  const OwnedTensor gate(Dtype::f64, {4, 2}, {.5, .125, .5, .25, .5, .25, 0, 0});
  const OwnedTensor row(Dtype::i32, {4, 2}, {0, 5, 1, -1, -1, -1, 2, 3});
  OwnedTensor y(Dtype::f64, {4, 2});
  ops_->normalize_gates_forward({.gate = gate, .row = row, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{.8, .2, 1, 0, 0, 0, 0, 0}));
  // dgate = (dy - <dy, y>) / sum: <dy, y> = 1 * .8 + 6 * .2 = 2, over .625.
  OwnedTensor dy(Dtype::f64, {4, 2}, {1, 6, 3, 9, 3, 9, 3, 9});
  ops_->normalize_gates_backward({.dy = dy, .gate = gate, .row = row, .y = y, .dgate = dy});
  EXPECT_EQ(dy.values(), (std::vector<double>{-1.6, 6.4, 0, 0, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace vitrail::testing
