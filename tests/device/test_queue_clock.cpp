#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "device/queue_clock.hpp"

namespace vitrail {
namespace {

TEST(QueueClock, TellsHowLongTheWorkBetweenTwoReadingsTook) {
  const auto device = make_cpu_device();
  const auto clock = make_queue_clock(*device);
  const std::size_t before = clock->read();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const std::size_t after = clock->read();
  const std::size_t at_once = clock->read();
  EXPECT_GE(clock->seconds(before, after), 0.02);
  EXPECT_LT(clock->seconds(after, at_once), clock->seconds(before, after));
}

TEST(QueueClock, CountsReadingsFromZeroAgainAfterAReset) {
  const auto device = make_cpu_device();
  const auto clock = make_queue_clock(*device);
  EXPECT_EQ(clock->read(), 0U);
  EXPECT_EQ(clock->read(), 1U);
  clock->reset();
  EXPECT_EQ(clock->read(), 0U);
}

}  // namespace
}  // namespace vitrail
