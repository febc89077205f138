#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "io/handover.hpp"

namespace vitrail {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

TEST(Handover, HandsEveryByteOverOnceAndInOrder) {
  Handover handover;
  std::string given;
  std::string taken;
  std::thread taker([&] {
    std::vector<char> room(7);
    while (const std::size_t count = handover.take(room.data(), room.size())) taken.append(room.data(), count);
    handover.taker_leaves();
  });
  for (std::size_t i = 0; i < 300; ++i) {
    const std::string stretch(i % 23, static_cast<char>('a' + i % 26));
    given += stretch;
    EXPECT_TRUE(handover.give(bytes_of(stretch)));
  }
  handover.giver_leaves();
  taker.join();
  EXPECT_EQ(taken, given);
}

TEST(Handover, DoesNotWaitForATakerThatHasLeft) {
  Handover handover;
  std::thread taker([&] {
    char one = 0;
    handover.take(&one, 1);
    handover.taker_leaves();
  });
  const std::string two = "ab";
  EXPECT_FALSE(handover.give(bytes_of(two)));
  EXPECT_FALSE(handover.give(bytes_of(two)));
  taker.join();
}

TEST(Handover, DoesNotWaitForAGiverThatHasLeft) {
  Handover handover;
  handover.giver_leaves();
  char one = 0;
  EXPECT_EQ(handover.take(&one, 1), 0U);
}

}  // namespace
}  // namespace vitrail
