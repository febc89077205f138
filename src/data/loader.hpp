#pragma once
// Feeds images to a rank: a background thread reads, shuffles and augments ahead of the training loop.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

#include "data/augment.hpp"
#include "data/sampler.hpp"
#include "data/shard.hpp"

namespace vitrail {

enum class Order {
  shuffled,    ///< training: the sequence of Sampler, endless, augmented
  sequential,  ///< evaluation: every image once in the dataset's order, padded to whole batches, not augmented
};

struct LoaderPlan {
  RankShare share;
  Order order = Order::shuffled;
  std::uint64_t seed = 0;
  Augmentation augmentation;
  std::int64_t first_step = 0;  ///< where a resumed run goes on; 0 in sequential order
  std::int64_t end_step = 0;    ///< steps first_step .. end_step-1; not used in sequential order
  int blocks_ahead = 4;         ///< buffers: blocks of pass_images() images
};

/// What one rank takes through one pass of one step. Belongs to the loader; valid until the next call of next().
struct ImageBlock {
  std::int64_t step = 0;
  std::int64_t pass = 0;
  std::int64_t first_position = 0;       ///< global position of the first image; the others follow
  std::int64_t count = 0;                ///< images in the block: pass_images(), always
  std::int64_t valid = 0;                ///< the first so many are images; the rest is padding: zeros, labels -1
  const std::uint8_t* images = nullptr;  ///< u8 [count, height, width, channels]
  const std::int32_t* labels = nullptr;  ///< i32 [count, labels_per_image], -1: none
  std::int64_t labels_per_image = 1;
};

class Loader {
 public:
  /// Starts the thread, to which the dataset belongs from now on.
  Loader(Dataset dataset, const LoaderPlan& plan);
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next block, in order of step and pass; waits for it if need be. An error of the thread is thrown here, in
  /// place of the block that it prevented. More than steps() * passes calls are an Error.
  const ImageBlock& next();

  /// Steps from first_step on: end_step - first_step, or the batches of one evaluation.
  [[nodiscard]] std::int64_t steps() const noexcept { return end_step_ - plan_.first_step; }
  /// Seconds that next() has waited since the last call of this function: time lost to slow data.
  double take_wait_s() noexcept;

 private:
  struct Buffer {
    ImageBlock block;
    std::vector<std::uint8_t> images;
    std::vector<std::int32_t> labels;
  };

  void run(const std::stop_token& stop);
  void fill(Buffer& buffer, std::int64_t step, std::int64_t pass);

  // Of the thread alone, once it runs.
  Dataset dataset_;
  Sampler sampler_;
  std::vector<std::int64_t> numbers_;
  std::vector<std::int64_t> epochs_;
  std::vector<std::uint8_t> plain_;  ///< images before augmentation

  const LoaderPlan plan_;
  const std::int64_t end_step_;
  std::vector<Buffer> ring_;

  // Shared, under the lock. Block k lies in ring_[k mod size].
  std::mutex lock_;
  std::condition_variable_any changed_;
  std::int64_t filled_ = 0;  ///< blocks finished by the thread
  std::int64_t freed_ = 0;   ///< blocks given back by next()
  std::exception_ptr failure_;

  // Of the caller alone.
  std::int64_t taken_ = 0;
  double wait_s_ = 0;

  std::jthread thread_;  ///< last: stopped and joined before anything that it uses goes
};

}  // namespace vitrail
