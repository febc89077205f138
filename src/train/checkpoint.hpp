#pragma once
// Checkpoints: logical tensors, whatever layout wrote them, so that any layout can read them.
//
// RUN/checkpoints/step-00000420/ holds one HDF5 file per writing group of ranks and manifest.json, which lists for
// every logical tensor its shape, dtype and the pieces (file, first element, count, place in the file) that together
// make it up, with a SHA-256 for each block of their bytes and one for all other bytes of a file. A checkpoint is
// written to step-N.tmp, synced, verified, and renamed when all ranks agree; then `latest` (a file with the folder's
// name) is replaced. A crash at any instant leaves the previous checkpoint usable.

#include <cstdint>
#include <filesystem>
#include <functional>
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
  Json data = {};         ///< how far the data was read, {"images": N}, which follows from step and batch: informative
};

struct SaveOptions {
  int keep_last = 2;            ///< the newest N checkpoints are kept; 0: all
  std::int64_t keep_every = 0;  ///< those of steps that this divides are kept, too; 0: no others
  int writers = 0;              ///< files; each is written by a run of consecutive ranks, in turn; 0: a file per rank
  /// A sign of life, called whenever a piece is written or read back: a save may take longer than a watchdog waits.
  std::function<void()> alive = [] {};
};

struct SaveReport {
  std::int64_t bytes = 0;  ///< of all ranks' tensors
  double seconds = 0;      ///< of the whole save, on this rank
};

/// Writes a checkpoint of all ranks' pieces. Collective; the pieces of all ranks must cover every tensor exactly once.
/// Removes the older checkpoints that `options` does not keep after `latest` has moved. May run in a thread of its own,
/// on a communicator of its own, if the pieces are memory that nobody changes meanwhile: no call of HDF5 moves more
/// than 16 MiB, so that other threads that read HDF5 files have their turn.
/// Error (checkpoint) on every rank if any rank fails (full disk, unwritable folder ...): the previous one stays good
/// and the unfinished folder is removed.
SaveReport save_checkpoint(Communicator& world, const std::filesystem::path& run_dir, const CheckpointInfo& info,
                           std::span<const CheckpointPiece> pieces, const SaveOptions& options);

/// The folder of the newest complete checkpoint of a run: the one `latest` names, else the newest that has a manifest;
/// nothing when there is none.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& run_dir);

/// All folders that have a manifest: first the latest_checkpoint, then the others from the last step to the first.
std::vector<std::filesystem::path> complete_checkpoints(const std::filesystem::path& run_dir);

/// A place in a checkpoint's files that does not hold what was saved.
struct Damage {
  std::string tensor;  ///< whose bytes they are; empty: the file's own bytes, outside of all tensors
  std::string file;    ///< its name in the checkpoint's folder
  /// In the file: of the first byte of the first block whose checksum does not fit; nothing outside of all tensors,
  /// where one checksum is that of many stretches.
  std::optional<std::int64_t> offset;
  std::string what;  ///< in words: "bytes 4096 to 8191 are not those that were saved"
};

/// Where a run of consecutive elements of a tensor lies: in one run of bytes.
struct StoredPlace {
  std::string file;         ///< its name in the checkpoint's folder
  std::int64_t first = 0;   ///< index of the first element
  std::int64_t count = 0;   ///< elements
  std::int64_t offset = 0;  ///< of the first element's first byte in the file
};

/// Reads a checkpoint. Every rank opens it for itself and reads only the ranges it asks for. One thread at a time.
class CheckpointReader {
 public:
  /// Opens a checkpoint folder (or a run folder: then its latest checkpoint) and checks the manifest and that its files
  /// are there with the sizes it tells; reads nothing else. Error (checkpoint) naming file and reason.
  explicit CheckpointReader(const std::filesystem::path& path);
  CheckpointReader(CheckpointReader&&) noexcept;
  ~CheckpointReader();

  [[nodiscard]] const std::filesystem::path& path() const noexcept;
  [[nodiscard]] const CheckpointInfo& info() const noexcept;
  /// Names of all tensors, sorted.
  [[nodiscard]] std::vector<std::string> tensors() const;
  [[nodiscard]] bool has(const std::string& tensor) const;
  [[nodiscard]] Shape shape(const std::string& tensor) const;
  [[nodiscard]] Dtype dtype(const std::string& tensor) const;
  /// By first element.
  [[nodiscard]] std::vector<StoredPlace> places(const std::string& tensor) const;
  /// Elements first .. first + to.elements() - 1 of a tensor into host memory. Reads the blocks (1 MiB) in which they
  /// lie, and checks these: Error (checkpoint) naming tensor, file and offset. `to` is of the tensor's dtype, or f32 or
  /// f64 where that is f32, f64 or bf16: f64 is rounded to the nearest f32, all else is exact.
  void read(const std::string& tensor, std::int64_t first, Tensor to) const;
  /// The same for memory of `device`, through a buffer in host memory.
  void read(const std::string& tensor, std::int64_t first, Device& device, Tensor to) const;
  /// Reads every byte of every file and holds it against the manifest's checksums. One entry for each damaged piece of
  /// a tensor, and one for each file whose other bytes are damaged or that cannot be read. Empty: everything is as it
  /// was saved.
  [[nodiscard]] std::vector<Damage> verify() const;
  /// SHA-256 over the names, shapes, dtypes and bytes of all tensors in sorted order, and the step: equal digests mean
  /// equal bits, whatever layout wrote them.
  [[nodiscard]] std::string digest() const;

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

}  // namespace vitrail
