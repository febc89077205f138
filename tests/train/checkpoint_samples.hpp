#pragma once
// What the tests of checkpoints save: tensors of every dtype with awkward sizes and arbitrary bits, cut in any way.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "train/checkpoint.hpp"

namespace vitrail::testing {

/// A new folder, removed with all its content at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "vitrail-checkpoint-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code failure;
    std::filesystem::remove_all(path_, failure);
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct SampleTensor {
  std::string name;
  Shape shape;
  Dtype dtype;
  std::vector<std::uint8_t> bytes;

  [[nodiscard]] ConstTensor range(std::int64_t first, std::int64_t count) const {
    return {bytes.data() + first * size_of(dtype), {count}, dtype};
  }
};

/// The state of a small model; every `salt` has other bits (any bits: NaNs of all kinds are among them).
class Sample {
 public:
  explicit Sample(std::uint64_t salt = 1) {
    add("parameters/block/kernel", {7, 33}, Dtype::f32, salt);
    add("parameters/block/bias", {33}, Dtype::f32, salt);
    add("parameters/temperature", {}, Dtype::f32, salt);
    add("moments/block/kernel", {20, 3, 50}, Dtype::bf16, salt);
    add("moments/none", {0, 4}, Dtype::f32, salt);
    add("norms", {5, 2}, Dtype::f64, salt);
    add("counters", {3}, Dtype::i64, salt);
    add("order", {6}, Dtype::i32, salt);
    add("flags", {257}, Dtype::u8, salt);
  }

  [[nodiscard]] const std::vector<SampleTensor>& tensors() const { return tensors_; }
  [[nodiscard]] std::vector<SampleTensor>& tensors() { return tensors_; }

  /// Rank `rank`'s share when runs of `run` elements are dealt to `ranks` ranks in turn, beginning with rank `dealer`.
  [[nodiscard]] std::vector<CheckpointPiece> pieces(std::int64_t run = 1 << 20, int rank = 0, int ranks = 1,
                                                    int dealer = 0) const {
    std::vector<CheckpointPiece> mine;
    std::int64_t turn = dealer;
    for (const SampleTensor& tensor : tensors_) {
      const std::int64_t elements = tensor.shape.elements();
      if (elements == 0) mine.push_back({tensor.name, tensor.shape, 0, tensor.range(0, 0)});
      for (std::int64_t first = 0; first < elements; first += run, ++turn) {
        if (turn % ranks != rank) continue;
        mine.push_back({tensor.name, tensor.shape, first, tensor.range(first, std::min(run, elements - first))});
      }
    }
    return mine;
  }

 private:
  void add(const std::string& name, const Shape& shape, Dtype dtype, std::uint64_t salt) {
    SampleTensor tensor{name, shape, dtype, {}};
    std::uint64_t state = salt * 0x9E3779B97F4A7C15U + tensors_.size();
    for (std::int64_t i = 0; i < shape.elements() * size_of(dtype); ++i) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      tensor.bytes.push_back(static_cast<std::uint8_t>(state >> 56));
    }
    tensors_.push_back(std::move(tensor));
  }

  std::vector<SampleTensor> tensors_;
};

inline CheckpointInfo sample_info(std::int64_t step) {
  return {step, Json::object().set("batch", 64).set("rate", 3e-3), Json::object().set("ranks", 1)};
}

/// One rank saves all of it.
inline void save(const std::filesystem::path& run_dir, std::int64_t step, const Sample& sample,
                 const SaveOptions& options, std::int64_t run = 1 << 20) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  save_checkpoint(*self, run_dir, sample_info(step), sample.pieces(run), options);
}
inline void save(const std::filesystem::path& run_dir, std::int64_t step, const Sample& sample, int keep_last = 0,
                 std::int64_t run = 1 << 20) {
  save(run_dir, step, sample, {.keep_last = keep_last}, run);
}

inline std::vector<std::uint8_t> read_range(const CheckpointReader& reader, const std::string& name, std::int64_t first,
                                            std::int64_t count) {
  const Dtype dtype = reader.dtype(name);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count * size_of(dtype)));
  reader.read(name, first, {bytes.data(), {count}, dtype});
  return bytes;
}

/// Does the checkpoint hold the sample, bit by bit, and nothing else, and is it undamaged?
inline bool holds(const CheckpointReader& reader, const Sample& sample) {
  if (reader.tensors().size() != sample.tensors().size() || !reader.verify().empty()) return false;
  return std::all_of(sample.tensors().begin(), sample.tensors().end(), [&](const SampleTensor& tensor) {
    return reader.has(tensor.name) && reader.shape(tensor.name) == tensor.shape &&
           reader.dtype(tensor.name) == tensor.dtype &&
           read_range(reader, tensor.name, 0, tensor.shape.elements()) == tensor.bytes;
  });
}

/// What `work` says when it fails as it must: with exit code `checkpoint`.
template <class Work>
std::string failure_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

inline std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void replace_content(const std::filesystem::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

/// Names in RUN/checkpoints, sorted.
inline std::vector<std::string> saved(const std::filesystem::path& run_dir) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir / "checkpoints")) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace vitrail::testing
