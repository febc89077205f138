#include <algorithm>
#include <cstdint>

#include <gtest/gtest.h>

#include "device/arena.hpp"

namespace vitrail {
namespace {

/// A layout of awkward sizes.
void lay_out(Arena& arena) {
  (void)arena.allocate(Dtype::u8, {1});
  (void)arena.allocate(Dtype::f64, {33});
  (void)arena.allocate(Dtype::f32, {0, 4});
  (void)arena.allocate(Dtype::i32, {7, 9});
}

TEST(Arena, MeasuresWhatARealOneNeeds) {
  const auto device = make_cpu_device();
  Arena measured("test");
  lay_out(measured);
  Arena real("test", *device, measured.bytes());
  lay_out(real);
  EXPECT_EQ(real.bytes(), measured.bytes());
  EXPECT_THROW((void)real.allocate(Dtype::u8, {1}), Error);
}

TEST(Arena, TensorsAreAlignedZeroAndApart) {
  const auto device = make_cpu_device();
  Arena arena("test", *device, 1024);
  const Tensor a = arena.allocate(Dtype::f32, {3});
  const Tensor b = arena.allocate(Dtype::f32, {3});
  for (const Tensor& tensor : {a, b}) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data) % 64, 0U);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(tensor.as<float>()[i], 0.0F);
  }
  a.as<float>()[2] = 1;
  EXPECT_EQ(b.as<float>()[0], 0.0F);
  EXPECT_GE(static_cast<std::byte*>(b.data) - static_cast<std::byte*>(a.data), a.bytes());
}

TEST(Arena, AMeasuringOneGivesNoMemory) {
  Arena arena("test");
  EXPECT_FALSE(arena.allocate(Dtype::f32, {3}));
  EXPECT_EQ(arena.bytes(), 64);
}

TEST(Arena, SaysWhatTheMemoryWasForWhenThereIsNotEnough) {
  const auto device = make_cpu_device();
  try {
    const Arena arena("gradients", *device, std::int64_t{1} << 60);
    FAIL() << "2^60 bytes were given";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_EQ(error.fault().problem, "no memory for the gradients: 1152921504606846976 bytes of memory were refused");
  }
}

TEST(CpuDevice, CopiesEqualSizesOnly) {
  const auto device = make_cpu_device();
  float from[3] = {1, 2, 3};
  float to[3] = {};
  device->copy(ConstTensor(from, {3}, Dtype::f32), Tensor(to, {3}, Dtype::f32));
  EXPECT_EQ(to[2], 3);
  EXPECT_THROW(device->copy(ConstTensor(from, {3}, Dtype::f32), Tensor(to, {2}, Dtype::f32)), Error);
  device->zero(Tensor(to, {3}, Dtype::f32));
  EXPECT_EQ(to[2], 0);
}

TEST(CpuDevice, GivesZerosAgainAfterARelease) {
  const auto device = make_cpu_device();
  for (const std::int64_t bytes : {1, 1000, 5 << 20, 5 << 20}) {  // the last two are whole huge pages
    auto* const memory = static_cast<std::uint8_t*>(device->allocate(bytes));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % (bytes > 1000 ? 2 << 20 : 64), 0U);
    EXPECT_EQ(std::count(memory, memory + bytes, 0), bytes);
    std::fill_n(memory, bytes, 0xFF);
    device->release(memory, bytes);
  }
}

TEST(CpuDevice, RefusesMoreMemoryThanThereIs) {
  const auto device = make_cpu_device();
  try {
    (void)device->allocate(std::int64_t{1} << 60);
    FAIL() << "2^60 bytes were given";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

}  // namespace
}  // namespace vitrail
