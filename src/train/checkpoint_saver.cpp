#include "train/checkpoint_saver.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "device/host_tensor.hpp"

namespace vitrail {

namespace {

constexpr std::int64_t kAlignment = 64;

std::int64_t aligned(std::int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

HostTensor buffer_for(Device& device, std::span<const CheckpointPiece> pieces) {
  std::int64_t bytes = 0;
  for (const CheckpointPiece& piece : pieces) bytes += aligned(piece.data.bytes());
  try {
    HostTensor buffer(device, Dtype::u8, {bytes});
    // The first touch belongs to the start, not to the first save.
    if (bytes > 0) std::memset(buffer.view().data, 0, static_cast<std::size_t>(bytes));
    return buffer;
  } catch (const Error& error) {
    Fault fault = error.fault();
    fault.problem = "checkpoint buffer: " + fault.problem;
    fail(error.code(), std::move(fault), error.where());
  }
}

}  // namespace

/// One save as the thread sees it; between saves it belongs to the caller.
struct CheckpointSaver::Work {
  std::unique_ptr<Communicator> world;
  std::filesystem::path run_dir;
  SaveOptions options;
  HostTensor buffer;
  std::vector<Tensor> places;           ///< in the buffer, of every piece
  std::vector<CheckpointPiece> copies;  ///< the pieces there
  CheckpointInfo info;

  std::exception_ptr failure;
  SaveReport report;
  std::atomic<bool> has_failed{false};
  std::atomic<bool> done{true};

  void run() noexcept {
    try {
      report = save_checkpoint(*world, run_dir, info, copies, options);
    } catch (...) {
      failure = std::current_exception();
      has_failed = true;
    }
    done = true;
  }
};

CheckpointSaver::CheckpointSaver(Communicator& world, Device& device, std::filesystem::path run_dir,
                                 SaveOptions options, std::span<const CheckpointPiece> pieces, double patience_s)
    : device_(device), patience_s_(patience_s), work_(std::make_unique<Work>()) {
  work_->world = world.split(0);
  work_->run_dir = std::move(run_dir);
  work_->options = std::move(options);
  work_->buffer = buffer_for(device, pieces);
  auto* place = static_cast<std::byte*>(work_->buffer.view().data);
  for (const CheckpointPiece& piece : pieces) {
    work_->places.emplace_back(place, piece.data.shape, piece.data.dtype);
    work_->copies.push_back({piece.tensor, piece.shape, piece.first, work_->places.back()});
    place += aligned(piece.data.bytes());
  }
}

CheckpointSaver::~CheckpointSaver() {
  if (!thread_.joinable()) return;
  const Stopwatch waited;
  while (running() && waited.seconds() < patience_s_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (running()) {
    thread_.detach();
    static_cast<void>(work_.release());  // the thread may still use it: a leak, of a process that is about to end
  } else {
    thread_.join();
  }
}

void CheckpointSaver::wait() {
  const Stopwatch held;
  if (thread_.joinable()) thread_.join();
  times_.stall_s += held.seconds();
  settle();
}

void CheckpointSaver::settle() {
  if (!std::exchange(in_flight_, false)) return;
  if (thread_.joinable()) thread_.join();
  work_->has_failed = false;
  if (work_->failure) std::rethrow_exception(std::exchange(work_->failure, nullptr));
  times_.bytes = work_->report.bytes;
  times_.seconds = work_->report.seconds;
  finished_.push_back(times_);
}

void CheckpointSaver::start(const CheckpointInfo& info, std::span<const CheckpointPiece> pieces) {
  const Stopwatch held;
  settle();  // waiting for the save before is a stall of this one
  VITRAIL_EXPECT(pieces.size() == work_->copies.size(), ExitCode::other,
                 text(pieces.size(), " pieces of a checkpoint, of ", work_->copies.size()),
                 "the buffer was made for others", "This is a bug");
  const Stopwatch copying;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const CheckpointPiece& piece = pieces[i];
    const CheckpointPiece& copy = work_->copies[i];
    VITRAIL_EXPECT(piece.tensor == copy.tensor && piece.first == copy.first && piece.data.dtype == copy.data.dtype &&
                       piece.data.elements() == copy.data.elements(),
                   ExitCode::other, text("piece ", i, " of a checkpoint is of tensor '", piece.tensor, "'"),
                   text("the buffer was made for '", copy.tensor, "'"), "This is a bug");
    const Tensor to = work_->places[i];
    if (piece.data.device != DeviceKind::cpu) {
      device_.download(piece.data, to);
    } else if (to.bytes() > 0) {
      std::memcpy(to.data, piece.data.data, static_cast<std::size_t>(to.bytes()));
    }
  }
  device_.synchronize();
  times_ = {.step = info.step, .copy_s = copying.seconds()};
  work_->info = info;
  work_->done = false;
  in_flight_ = true;
  thread_ = std::thread([work = work_.get()] { work->run(); });
  times_.stall_s = held.seconds();
}

bool CheckpointSaver::running() const noexcept { return !work_->done; }

bool CheckpointSaver::failed() const noexcept { return work_->has_failed; }

std::vector<SaveTimes> CheckpointSaver::take_finished() {
  if (in_flight_ && !running() && !failed()) settle();
  return std::exchange(finished_, {});
}

std::int64_t CheckpointSaver::buffer_bytes() const noexcept { return work_->buffer.view().bytes(); }

}  // namespace vitrail
