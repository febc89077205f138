#pragma once
// Checkpoints: logical tensors, whatever layout wrote them, so that any layout can read them.
//
// RUN/checkpoints/step-00000420/ holds one HDF5 file per writing rank and manifest.json, which lists for every logical
// tensor its shape, dtype and the pieces (file, dataset, first element, count) that together make it up, and the
// SHA-256 of every file. A checkpoint is written to step-N.tmp, synced, verified, and renamed when all ranks agree;
// then `latest` (a file with the folder's name) is replaced. A crash at any instant leaves the previous checkpoint
// usable.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "comm/communicator.hpp"
#include "device/device.hpp"

namespace vitrail {

/// A run of consecutive elements (row-major) of a logical tensor that this rank owns and writes.
struct CheckpointPiece {
  std::string tensor;        ///< logical name, e.g. "parameters/Encoder/encoderblock_0/Mlp/Dense_0/kernel"
  Shape shape;               ///< of the whole logical tensor
  std::int64_t first = 0;    ///< index of the piece's first element in the logical tensor
  ConstTensor data;          ///< [count]
  Device* device = nullptr;  ///< whose memory data is; none: host memory
};

/// What a checkpoint says of itself.
struct CheckpointInfo {
  std::int64_t step = 0;  ///< optimisation steps done
  Json config;            ///< the merged configuration of the run that wrote it
  Json layout;            ///< ranks, expert-parallel width, ... : informative
};

struct SaveOptions {
  int keep_last = 2;            ///< newest checkpoints that are kept; 0: all
  std::int64_t keep_every = 0;  ///< checkpoints of steps that it divides are kept, too; 0: none
  int writers = 0;              ///< files of a checkpoint; 0: one per rank that has something to write
};

/// What a save came to.
struct SaveReport {
  std::int64_t bytes = 0;  ///< of tensors, all ranks
  double seconds = 0;      ///< of the whole save
};

/// Writes a checkpoint of all ranks' pieces. Collective; the pieces of all ranks must cover every tensor exactly once.
/// Removes older checkpoints beyond the `keep_last` newest (0 = keep all) after `latest` has moved.
/// Error (checkpoint) on every rank if any rank fails (full disk, unwritable folder ...): the previous one stays good
/// and the unfinished folder is removed.
void save_checkpoint(Communicator& world, const std::filesystem::path& run_dir, const CheckpointInfo& info,
                     std::span<const CheckpointPiece> pieces, int keep_last);

/// The folder of the newest complete checkpoint of a run: the one `latest` names, else the newest that has a manifest;
/// nothing when there is none.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& run_dir);

/// Reads a checkpoint. Every rank opens it for itself and reads only the ranges it asks for.
class CheckpointReader {
 public:
  /// Opens a checkpoint folder (or a run folder: then its latest checkpoint) and checks the manifest against the files:
  /// present, whole (sizes), pieces covering. Error (checkpoint) naming file and reason. `verify` also reads every file
  /// and compares its SHA-256.
  explicit CheckpointReader(const std::filesystem::path& path, bool verify = false);
  CheckpointReader(CheckpointReader&&) noexcept;
  ~CheckpointReader();

  [[nodiscard]] const std::filesystem::path& path() const noexcept;
  [[nodiscard]] const CheckpointInfo& info() const noexcept;
  /// Names of all tensors, sorted.
  [[nodiscard]] std::vector<std::string> tensors() const;
  [[nodiscard]] bool has(const std::string& tensor) const;
  [[nodiscard]] Shape shape(const std::string& tensor) const;
  [[nodiscard]] Dtype dtype(const std::string& tensor) const;
  /// Elements first .. first + to.elements() - 1 of a tensor into host memory `to` of the same dtype.
  void read(const std::string& tensor, std::int64_t first, Tensor to) const;
  /// The same for memory of `device`, through a buffer in host memory.
  void read(const std::string& tensor, std::int64_t first, Device& device, Tensor to) const;
  /// SHA-256 over the names, shapes, dtypes and bytes of all tensors in sorted order, and the step: equal digests mean
  /// equal bits, whatever layout wrote them.
  [[nodiscard]] std::string digest() const;

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

}  // namespace vitrail
