#include "data/loader.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "base/timer.hpp"

namespace vitrail {

namespace {
std::int64_t end_of(const LoaderPlan& plan, std::int64_t images) {
  plan.share.check();
  if (plan.order == Order::shuffled) return plan.end_step;
  VITRAIL_ASSERT(plan.first_step == 0);
  return (images + plan.share.batch - 1) / plan.share.batch;
}
}  // namespace

Loader::Loader(Dataset dataset, const LoaderPlan& plan)
    : dataset_(std::move(dataset)),
      sampler_(dataset_.images(), plan.seed),
      plan_(plan),
      end_step_(end_of(plan, dataset_.images())) {
  VITRAIL_EXPECT(plan_.blocks_ahead >= 2, ExitCode::usage, text(plan_.blocks_ahead, " blocks ahead"),
                 "one is in use while another is filled", "Use at least 2");
  const auto count = static_cast<std::size_t>(plan_.share.pass_images());
  const std::size_t bytes = count * static_cast<std::size_t>(dataset_.image().bytes());
  numbers_.reserve(count);
  epochs_.reserve(count);
  plain_.resize(bytes);
  ring_.resize(static_cast<std::size_t>(plan_.blocks_ahead));
  for (Buffer& buffer : ring_) {
    buffer.images.resize(bytes);
    buffer.labels.resize(count * static_cast<std::size_t>(dataset_.labels_per_image()));
  }
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

void Loader::run(const std::stop_token& stop) {
  try {
    std::int64_t number = 0;
    for (std::int64_t step = plan_.first_step; step < end_step_; ++step) {
      for (std::int64_t pass = 0; pass < plan_.share.passes(); ++pass, ++number) {
        {
          std::unique_lock guard(lock_);
          const bool has_room =
              changed_.wait(guard, stop, [&] { return number - freed_ < static_cast<std::int64_t>(ring_.size()); });
          if (!has_room || stop.stop_requested()) return;
        }
        fill(ring_[static_cast<std::size_t>(number) % ring_.size()], step, pass);
        {
          const std::lock_guard guard(lock_);
          filled_ = number + 1;
        }
        changed_.notify_all();
      }
    }
  } catch (...) {
    {
      const std::lock_guard guard(lock_);
      failure_ = std::current_exception();
    }
    changed_.notify_all();
  }
}

void Loader::fill(Buffer& buffer, std::int64_t step, std::int64_t pass) {
  const std::int64_t count = plan_.share.pass_images();
  const std::int64_t first = plan_.share.first_position(step, pass);
  const std::int64_t bytes = dataset_.image().bytes();
  const bool shuffled = plan_.order == Order::shuffled;
  const std::int64_t valid = shuffled ? count : std::clamp<std::int64_t>(dataset_.images() - first, 0, count);
  numbers_.clear();
  epochs_.clear();
  for (std::int64_t i = 0; i < valid; ++i) {
    const Sampler::Place place = shuffled ? sampler_.at(first + i) : Sampler::Place{.epoch = 0, .sample = first + i};
    numbers_.push_back(place.sample);
    epochs_.push_back(place.epoch);
  }
  const bool augmented = shuffled && (plan_.augmentation.shift > 0 || plan_.augmentation.flip);
  dataset_.read(numbers_, augmented ? plain_.data() : buffer.images.data(), buffer.labels.data());
  for (std::int64_t i = 0; augmented && i < valid; ++i) {
    const auto at = static_cast<std::size_t>(i);
    augment(draw_augmentation(plan_.augmentation, plan_.seed, epochs_[at], numbers_[at]), dataset_.image(),
            plain_.data() + i * bytes, buffer.images.data() + i * bytes);
  }
  std::fill(buffer.images.begin() + valid * bytes, buffer.images.end(), std::uint8_t{0});
  std::fill(buffer.labels.begin() + valid * dataset_.labels_per_image(), buffer.labels.end(), -1);
  buffer.block = {
      step, pass, first, count, valid, buffer.images.data(), buffer.labels.data(), dataset_.labels_per_image()};
}

const ImageBlock& Loader::next() {
  VITRAIL_EXPECT(taken_ < steps() * plan_.share.passes(), ExitCode::other,
                 text("block ", taken_, " of a plan of ", steps(), " steps"), "the plan is over", "");
  const Stopwatch waiting;
  std::unique_lock guard(lock_);
  freed_ = taken_;  // the block of the last call
  changed_.notify_all();
  changed_.wait(guard, [&] { return filled_ > taken_ || failure_; });
  if (filled_ <= taken_) std::rethrow_exception(failure_);
  wait_s_ += waiting.seconds();
  return ring_[static_cast<std::size_t>(taken_++) % ring_.size()].block;
}

double Loader::take_wait_s() noexcept { return std::exchange(wait_s_, 0.0); }

}  // namespace vitrail
