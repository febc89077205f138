#include "base/activity.hpp"

#include <chrono>
#include <new>

namespace vitrail {

namespace {

std::int64_t now_ns() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void Activity::mark() noexcept {
  marked_ns_.store(now_ns(), std::memory_order_relaxed);
  marks_.fetch_add(1, std::memory_order_release);
}

void Activity::step(std::int64_t step) noexcept {
  step_.store(step, std::memory_order_relaxed);
  mark();
}

void Activity::layer(std::int64_t layer) noexcept {
  layer_.store(layer, std::memory_order_relaxed);
  mark();
}

void Activity::begin(const char* what) noexcept {
  what_.store(what, std::memory_order_relaxed);
  inside_.store(true, std::memory_order_relaxed);
  mark();
}

void Activity::begin_collective(const char* what) noexcept {
  collectives_.fetch_add(1, std::memory_order_relaxed);
  begin(what);
}

void Activity::end() noexcept {
  inside_.store(false, std::memory_order_relaxed);
  mark();
}

void Activity::alive() noexcept { mark(); }

Activity::Glance Activity::look() const noexcept {
  Glance seen;
  seen.marks = marks_.load(std::memory_order_acquire);
  seen.step = step_.load(std::memory_order_relaxed);
  seen.layer = layer_.load(std::memory_order_relaxed);
  seen.what = what_.load(std::memory_order_relaxed);
  seen.inside = inside_.load(std::memory_order_relaxed);
  seen.collectives = collectives_.load(std::memory_order_relaxed);
  const std::int64_t marked = marked_ns_.load(std::memory_order_relaxed);
  seen.since_s = marked == 0 ? 0 : 1e-9 * static_cast<double>(now_ns() - marked);
  return seen;
}

void Activity::rethrow(const char* what) const {
  const std::int64_t layer = layer_.load(std::memory_order_relaxed);
  const std::string part = layer < 0 ? what : text(what, ", layer ", layer);
  try {
    throw;
  } catch (const Error& error) {
    throw error.in(part);
  } catch (const std::bad_alloc&) {
    throw Error(ExitCode::usage, {"out of memory", "an allocation failed", "Use more nodes or a smaller model"})
        .in(part);
  }
}

std::string text_of(const Activity::Glance& glance) {
  std::string said = text(glance.inside ? "in " : "after ", glance.what);
  if (glance.layer >= 0) said += text(", layer ", glance.layer);
  return said + (glance.step > 0 ? text(", step ", glance.step) : ", before the first step");
}

}  // namespace vitrail
