// Models larger than memory pass through in stretches: the peak of memory does not know how large a file is.

#include <fstream>
#include <functional>
#include <sstream>
#include <vector>

#include <gtest/gtest.h>

#include "convert/npz.hpp"
#include "convert/safetensors.hpp"
#include "tests/scratch_folder.hpp"

namespace vitrail {
namespace {

constexpr std::int64_t kTensors = 3;
constexpr std::int64_t kElements = 25 << 20;  // 100 MiB of f32 each
constexpr std::int64_t kStretch = 1 << 18;
constexpr std::int64_t kMostGrowth = 64 << 10;  // KiB

/// A line "NAME:  1234 kB" of /proc/self/status.
std::int64_t status(const std::string& name) {
  std::ifstream in("/proc/self/status");
  std::string word;
  while (in >> word) {
    std::int64_t kib = 0;
    if (word == name + ":" && in >> kib) return kib;
  }
  return -1;
}

/// KiB by which the peak of this process's memory rose above what it had before.
std::int64_t growth_in(const std::function<void()>& call) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts anew
  const std::int64_t before = status("VmRSS");
  call();
  return status("VmHWM") - before;
}

std::vector<TensorInfo> large_tensors() {
  std::vector<TensorInfo> made;
  for (std::int64_t i = 0; i < kTensors; ++i) {
    made.push_back({"tensor " + std::to_string(i), {kElements / 1024, 1024}, Dtype::f32});
  }
  return made;
}

void write_large(TensorSink& sink) {
  std::vector<float> stretch(kStretch);
  for (std::int64_t first = 0; first < kTensors * kElements; first += kStretch) {
    for (std::int64_t i = 0; i < kStretch; ++i) {
      stretch[static_cast<std::size_t>(i)] = static_cast<float>((first + i) % 16777213);
    }
    sink.write({stretch.data(), {kStretch}, Dtype::f32});
  }
  sink.finish();
}

/// The number of wrong elements.
std::int64_t read_large(TensorSource& source) {
  std::vector<float> stretch(kStretch);
  std::int64_t wrong = 0;
  std::int64_t place = 0;
  for (const TensorInfo& tensor : source.tensors()) {
    for (std::int64_t first = 0; first < kElements; first += kStretch) {
      source.read(tensor.name, first, {stretch.data(), {kStretch}, Dtype::f32});
      for (const float value : stretch) wrong += value == static_cast<float>(place++ % 16777213) ? 0 : 1;
    }
  }
  return wrong + (place == kTensors * kElements ? 0 : 1);
}

TEST(Memory, IsMeasuredAtAll) {
  const std::int64_t growth = growth_in([] {
    const std::vector<char> used(100 << 20, 'x');
    EXPECT_EQ(used.back(), 'x');
  });
  EXPECT_GT(growth, 90 << 10);
}

TEST(Memory, OfAnNpzFileOf300MbIsThatOfItsStretches) {
  const testing::ScratchFolder folder;
  EXPECT_LT(growth_in([&] { write_large(*create_npz(folder / "a.npz", large_tensors())); }), kMostGrowth);
  EXPECT_GT(std::filesystem::file_size(folder / "a.npz"), 300U << 20);
  EXPECT_LT(growth_in([&] { EXPECT_EQ(read_large(*open_npz(folder / "a.npz")), 0); }), kMostGrowth);
}

TEST(Memory, OfASafetensorsFileOf300MbIsThatOfItsStretches) {
  const testing::ScratchFolder folder;
  EXPECT_LT(growth_in([&] { write_large(*create_safetensors(folder / "a.safetensors", large_tensors())); }),
            kMostGrowth);
  EXPECT_GT(std::filesystem::file_size(folder / "a.safetensors"), 300U << 20);
  EXPECT_LT(growth_in([&] { EXPECT_EQ(read_large(*open_safetensors(folder / "a.safetensors")), 0); }), kMostGrowth);
}

}  // namespace
}  // namespace vitrail
