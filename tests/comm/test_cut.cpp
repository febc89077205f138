#include <limits>

#include <gtest/gtest.h>

#include "comm/mpi/cut.hpp"

namespace vitrail::test {
namespace {

void expect_sound(std::int64_t total, std::int64_t limit) {
  const Cut cut(total, limit);
  ASSERT_EQ(cut.pieces(), (total + limit - 1) / limit) << "fewest pieces";
  std::int64_t next = 0;
  for (std::int64_t i = 0; i < cut.pieces(); ++i) {
    const Cut::Piece piece = cut.piece(i);
    ASSERT_EQ(piece.first, next) << total << " by " << limit;
    ASSERT_GE(piece.count, total / cut.pieces());
    ASSERT_LE(piece.count, total / cut.pieces() + 1);
    ASSERT_LE(piece.count, limit);
    next += piece.count;
  }
  ASSERT_EQ(next, total);
}

TEST(Cut, CoversEverythingOnceInEvenPieces) {
  for (std::int64_t total = 0; total < 60; ++total) {
    for (std::int64_t limit = 1; limit < 70; ++limit) expect_sound(total, limit);
  }
}

TEST(Cut, HasNoPiecesOfNothing) { EXPECT_EQ(Cut(0, 5).pieces(), 0); }

TEST(Cut, KeepsWhatAnIntCanCount) {
  constexpr std::int64_t kInt = std::numeric_limits<int>::max();
  EXPECT_EQ(Cut(kInt, kInt).pieces(), 1);
  EXPECT_EQ(Cut(kInt + 1, kInt).pieces(), 2);
  expect_sound(kInt + 1, kInt);
  expect_sound(std::int64_t{40} << 30, kInt);
  expect_sound((std::int64_t{1} << 45) + 12345, kInt / 4096);
}

}  // namespace
}  // namespace vitrail::test
