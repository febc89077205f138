#pragma once
// Decorator: a device whose submitted work can be run call by call, so that its verbs can be timed one by one where
// they are otherwise recorded as graphs.

#include "device/device.hpp"

namespace vitrail {

class BenchDevice final : public Device {
 public:
  /// `inner` must outlive it.
  explicit BenchDevice(Device& inner) : inner_(inner) {}

  /// Whether submit() calls its work itself from here on.
  void call_by_call(bool on) noexcept { call_by_call_ = on; }

  [[nodiscard]] DeviceKind kind() const noexcept override { return inner_.kind(); }
  [[nodiscard]] std::string description() const override { return inner_.description(); }
  void* allocate(std::int64_t bytes) override { return inner_.allocate(bytes); }
  void release(void* memory, std::int64_t bytes) noexcept override { inner_.release(memory, bytes); }
  void* allocate_host(std::int64_t bytes) override { return inner_.allocate_host(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { inner_.release_host(memory, bytes); }
  void copy(ConstTensor from, Tensor to) override { inner_.copy(from, to); }
  void zero(Tensor tensor) override { inner_.zero(tensor); }
  [[nodiscard]] Place place() override { return inner_.place(); }
  void wait(Place place) override { inner_.wait(place); }
  void upload(ConstTensor from, Tensor to, Place free) override { inner_.upload(from, to, free); }
  void download(ConstTensor from, Tensor to) override { inner_.download(from, to); }
  void submit(const std::string& name, const std::function<void()>& work) override {
    if (call_by_call_) return work();
    inner_.submit(name, work);
  }
  [[nodiscard]] bool asynchronous() const noexcept override { return inner_.asynchronous(); }

 private:
  Device& inner_;
  bool call_by_call_ = false;
};

}  // namespace vitrail
