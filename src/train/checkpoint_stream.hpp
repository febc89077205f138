#pragma once
// Writes a checkpoint tensor after tensor, a stretch at a time: for programs of one process that make checkpoints
// which are larger than their memory (conversion, resharding, averages).

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "train/checkpoint.hpp"

namespace vitrail {

class CheckpointStream {
 public:
  /// Begins the checkpoint of step info.step in RUN/checkpoints, as FOLDER.tmp, in `files` part files (1 or more):
  /// every tensor is cut into `files` runs of elements as equal as possible; into fewer, in the first files, where
  /// these would be shorter than 64 KiB. Error (checkpoint) if it cannot.
  CheckpointStream(const std::filesystem::path& run_dir, CheckpointInfo info, int files = 1);
  CheckpointStream(const CheckpointStream&) = delete;
  CheckpointStream& operator=(const CheckpointStream&) = delete;
  /// Without finish() the unfinished folder is removed.
  ~CheckpointStream();

  /// Begins a tensor; the one before must be complete. Names as in a checkpoint: "parameters/head/bias".
  void begin(const std::string& tensor, const Shape& shape, Dtype dtype);
  /// The next elements of the tensor that was begun last, in host memory and of its dtype.
  void write(ConstTensor stretch);
  /// Manifest, sync, verification, rename, `latest`. Returns the checkpoint's folder.
  std::filesystem::path finish();

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

}  // namespace vitrail
