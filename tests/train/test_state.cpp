#include <gtest/gtest.h>

#include "train/presets.hpp"
#include "train/state.hpp"

namespace vitrail {
namespace {

/// Host memory, but only so much.
class NarrowDevice final : public Device {
 public:
  explicit NarrowDevice(std::int64_t bytes) : left_bytes_(bytes) {}
  [[nodiscard]] DeviceKind kind() const noexcept override { return DeviceKind::cpu; }
  [[nodiscard]] std::string description() const override { return "narrow"; }
  void* allocate(std::int64_t bytes) override {
    VITRAIL_EXPECT(bytes <= left_bytes_, ExitCode::usage, text(bytes, " bytes were refused"),
                   text(left_bytes_, " are free"), "Buy more");
    left_bytes_ -= bytes;
    return host_->allocate(bytes);
  }
  void release(void* memory, std::int64_t bytes) noexcept override { host_->release(memory, bytes); }
  void* allocate_host(std::int64_t bytes) override { return host_->allocate_host(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { host_->release_host(memory, bytes); }
  void copy(ConstTensor from, Tensor to) override { host_->copy(from, to); }
  void zero(Tensor tensor) override { host_->zero(tensor); }
  [[nodiscard]] Place place() override { return host_->place(); }
  void wait(Place place) override { host_->wait(place); }
  void upload(ConstTensor from, Tensor to, Place free) override { host_->upload(from, to, free); }
  void download(ConstTensor from, Tensor to) override { host_->download(from, to); }
  void submit(const std::string& name, const std::function<void()>& work) override { host_->submit(name, work); }
  [[nodiscard]] bool asynchronous() const noexcept override { return false; }

 private:
  std::unique_ptr<Device> host_ = make_cpu_device();
  std::int64_t left_bytes_;
};

std::string mebibytes(std::int64_t bytes) {
  char shown[32];
  std::snprintf(shown, sizeof shown, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return shown;
}

TEST(TrainState, ShowsThePlanOfItsMemoryWhenAnArenaDoesNotFit) {
  const RunConfig config = preset("fmnist");
  const auto ops = make_reference_ops();
  const auto world = make_self_communicator();
  const auto device = make_cpu_device();
  const TrainState fits(config, *device, *ops, *world);
  NarrowDevice narrow(fits.parameter_bytes() + fits.gradient_bytes() + fits.optimizer_bytes() + 123);
  try {
    const TrainState state(config, narrow, *ops, *world);
    FAIL() << "it fitted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    const std::string said = error.what();
    const auto expect_said = [&](const std::string& part) {
      EXPECT_NE(said.find(part), std::string::npos) << part << " is missing in\n" << said;
    };
    expect_said(text("no memory for the activations: ", fits.activation_bytes(), " bytes were refused"));
    expect_said("(123 are free). Buy more. ");
    std::int64_t sum = 0;
    for (const std::int64_t bytes :
         {fits.parameter_bytes(), fits.gradient_bytes(), fits.optimizer_bytes(), fits.activation_bytes()}) {
      expect_said(mebibytes(bytes));
      sum += bytes;
    }
    expect_said(mebibytes(sum));
  }
}

}  // namespace
}  // namespace vitrail
