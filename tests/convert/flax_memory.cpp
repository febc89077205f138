// Writes a checkpoint of 300 MB, copies it a stretch at a time into another that is cut otherwise, and fails when the
// process grew by 64 MB or more meanwhile: the files must never be in memory as a whole.

#include <cstring>
#include <iostream>

#include <sys/resource.h>

#include "tests/convert/flax_samples.hpp"

namespace vitrail::testing {
namespace {

constexpr std::int64_t kStretch = std::int64_t{1} << 20;  // elements

std::int64_t peak_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

std::vector<TensorInfo> tensors() {
  std::vector<TensorInfo> infos;
  infos.reserve(2003);
  for (int block = 0; block < 3; ++block) {
    infos.push_back({text("encoderblock_", block, "/Moe/Mlp/Dense_0/kernel"), {8, 512, 6000}, Dtype::f32});
  }
  // Many small ones, whose headers are far apart and close together.
  for (int i = 0; i < 2000; ++i) infos.push_back({text("small_", i), {500}, Dtype::f32});
  return infos;
}

/// Numbers that tell every element's place.
void fill(std::vector<float>& values, std::int64_t tensor, std::int64_t first) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((first + static_cast<std::int64_t>(i)) % 16777213 + tensor);
  }
}

/// Calls visit(tensor, first, values) for every stretch.
template <class Visit>
void for_each_stretch(Visit visit) {
  std::vector<float> values;
  std::int64_t number = 0;
  for (const TensorInfo& info : tensors()) {
    for (std::int64_t first = 0; first < info.shape.elements(); first += kStretch) {
      values.resize(static_cast<std::size_t>(std::min(kStretch, info.shape.elements() - first)));
      visit(info, number, first, values);
    }
    ++number;
  }
}

Tensor as_tensor(std::vector<float>& values) { return {values.data(), {std::ssize(values)}, Dtype::f32}; }

int run() {
  const FlaxFolder folder;
  const std::int64_t before = peak_bytes();
  FlaxCut cut;
  cut.shards = 3;
  {
    const auto sink = create_flax(folder / "first", tensors(), cut);
    for_each_stretch([&](const TensorInfo&, std::int64_t number, std::int64_t first, std::vector<float>& values) {
      fill(values, number, first);
      sink->write(as_tensor(values));
    });
    sink->finish();
  }
  cut.shards = 5;
  cut.slice_bytes = 1 << 21;  // cuts the second axis, too
  cut.piece_bytes = 1 << 20;
  {
    const auto source = open_flax(folder / "first");
    const auto sink = create_flax(folder / "second", tensors(), cut);
    for_each_stretch([&](const TensorInfo& info, std::int64_t, std::int64_t first, std::vector<float>& values) {
      source->read(info.name, first, as_tensor(values));
      sink->write(as_tensor(values));
    });
    sink->finish();
  }
  bool equal = true;
  {
    const auto source = open_flax(folder / "second");
    std::vector<float> expected;
    for_each_stretch([&](const TensorInfo& info, std::int64_t number, std::int64_t first, std::vector<float>& values) {
      source->read(info.name, first, as_tensor(values));
      expected.resize(values.size());
      fill(expected, number, first);
      equal = equal && std::memcmp(values.data(), expected.data(), values.size() * sizeof(float)) == 0;
    });
  }
  const std::int64_t growth = peak_bytes() - before;
  std::cout << "grew by " << growth / 1000000 << " MB\n";
  if (!equal) std::cout << "the copy differs\n";
  return equal && growth < 64000000 ? 0 : 1;
}

}  // namespace
}  // namespace vitrail::testing

int main() {
  try {
    return vitrail::testing::run();
  } catch (const std::exception& error) {
    std::cerr << "flax_memory: " << error.what() << '\n';
    return 1;
  }
}
