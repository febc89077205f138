#include "device/arena.hpp"

#include <utility>

namespace vitrail {

namespace {

// A device that refuses does not know what the memory was for.
void* allocate_for(const std::string& name, Device& device, std::int64_t bytes) {
  try {
    return device.allocate(bytes);
  } catch (const Error& refused) {
    Fault fault = refused.fault();
    fault.problem = text("no memory for the ", name, ": ", fault.problem);
    fail(refused.code(), std::move(fault), refused.where());
  }
}

}  // namespace

Arena::Arena(std::string name, Device& device, std::int64_t bytes)
    : name_(std::move(name)), device_(&device), capacity_bytes_(bytes) {
  memory_ = static_cast<std::byte*>(allocate_for(name_, device, bytes));
}

Arena::~Arena() {
  if (device_ != nullptr) device_->release(memory_, capacity_bytes_);
}

Tensor Arena::allocate(Dtype dtype, Shape shape) {
  constexpr std::int64_t kAlignment = 64;
  const std::int64_t begin = used_bytes_;
  const std::int64_t size = shape.elements() * size_of(dtype);
  used_bytes_ = begin + (size + kAlignment - 1) / kAlignment * kAlignment;
  if (device_ == nullptr) return {nullptr, shape, dtype, DeviceKind::cpu};
  VITRAIL_EXPECT(used_bytes_ <= capacity_bytes_, ExitCode::other,
                 text("arena '", name_, "' of ", capacity_bytes_, " bytes is full"),
                 text("a tensor ", shape.str(), " of ", name_of(dtype), " ends at ", used_bytes_), "This is a bug");
  return {memory_ + begin, shape, dtype, device_->kind()};
}

}  // namespace vitrail
