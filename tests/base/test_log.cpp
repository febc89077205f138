#include <array>
#include <string>

#include <gtest/gtest.h>

#include "base/log.hpp"
#include "base/timer.hpp"

namespace vitrail {
namespace {

std::string content_of(std::FILE* stream) {
  std::rewind(stream);
  std::array<char, 1000> bytes{};
  return {bytes.data(), std::fread(bytes.data(), 1, bytes.size(), stream)};
}

TEST(Log, LetsOnlyRankZeroSpeakForAll) {
  std::FILE* out = std::tmpfile();
  std::FILE* err = std::tmpfile();
  const Log first("vitrail-train", 0, 4, out, err);
  const Log third("vitrail-train", 3, 4, out, err);
  first.info("step ", 1);
  third.info("step ", 1);
  first.warn("slow ", 0.5);
  third.warn("slow ", 0.5);
  third.warn_here("hot");
  Log("vitrail-pack", 0, 1, out, err).warn_here("odd");
  EXPECT_EQ(content_of(out), "step 1\n");
  EXPECT_EQ(content_of(err),
            "vitrail-train: warning: slow 0.5\nvitrail-train: rank 3/4: warning: hot\nvitrail-pack: warning: odd\n");
  std::fclose(out);
  std::fclose(err);
}

TEST(Stopwatch, CountsSecondsAndRestarts) {
  const Stopwatch whole;
  Stopwatch watch;
  while (watch.seconds() < 0.02) {
  }
  EXPECT_GE(watch.restart(), 0.02);
  const double since_restart = watch.seconds();
  EXPECT_GE(whole.seconds(), since_restart + 0.02);
}

}  // namespace
}  // namespace vitrail
