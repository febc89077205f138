#pragma once
// Saves checkpoints in the background. The step loop is held while the state is copied into a buffer in host memory; a
// thread then writes the copy while the loop goes on. At most one save is in flight.
//
//   CheckpointSaver saver(world, device, run_dir, options, checkpoint_pieces(state));   // all ranks, before step 1
//   saver.start(info, checkpoint_pieces(state));                                        // all ranks, the same steps
//   ...                                                                                 // the next steps
//   if (any rank's saver.failed()) saver.wait();                                        // throws
//   saver.wait();                                                                       // before the run ends

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/timer.hpp"
#include "train/checkpoint.hpp"

namespace vitrail {

/// Of one save that went well.
struct SaveTimes {
  std::int64_t step = 0;
  std::int64_t bytes = 0;  ///< of tensors, all ranks
  double stall_s = 0;      ///< the caller was held: by the save before this one, by the copy, and in wait()
  double copy_s = 0;       ///< of these, the copy
  double seconds = 0;      ///< from the end of the copy until the checkpoint is complete

  [[nodiscard]] double bytes_per_s() const { return seconds > 0 ? static_cast<double>(bytes) / seconds : 0; }
};

class CheckpointSaver {
 public:
  /// For pieces of these sizes. `world` carries host memory and outlives this object, like `device`, whose
  /// allocate_host() gives the buffer: as much memory as the pieces have. Collective: the saves have a communicator of
  /// their own. `patience_s`: of the destructor. Error (usage) when there is not enough memory.
  CheckpointSaver(Communicator& world, Device& device, std::filesystem::path run_dir, SaveOptions options,
                  std::span<const CheckpointPiece> pieces, double patience_s = 10);
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;
  /// Gives a save that is in flight `patience_s` to end, and then leaves it alone, with its buffer: where an error ends
  /// the run, the other ranks may be gone already. Whoever wants the save calls wait() first.
  ~CheckpointSaver();

  /// Saves these pieces, of the same number and sizes as the constructor's. Returns when they are copied; what they
  /// point to may change then. Waits for the save before, and throws what it failed with. Every rank calls it for the
  /// same step.
  void start(const CheckpointInfo& info, std::span<const CheckpointPiece> pieces);
  /// Returns when no save is in flight. If the last one failed, it throws its Error, the same on all ranks, once.
  void wait();

  /// Whether this rank's part of a save is in flight.
  [[nodiscard]] bool running() const noexcept;
  /// Whether the save that nobody has waited for has failed on this rank; the others will learn of it later.
  [[nodiscard]] bool failed() const noexcept;
  /// The saves that have ended since this was called last.
  std::vector<SaveTimes> take_finished();
  /// Host memory of this rank.
  [[nodiscard]] std::int64_t buffer_bytes() const noexcept;

 private:
  struct Work;

  /// Takes in what the save in flight has come to, once it has ended.
  void settle();

  Device& device_;
  double patience_s_;
  std::unique_ptr<Work> work_;  // what the thread uses
  std::thread thread_;
  bool in_flight_ = false;  // or ended, and nobody has looked
  SaveTimes times_;         // of that save
  std::vector<SaveTimes> finished_;
};

}  // namespace vitrail
