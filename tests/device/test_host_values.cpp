#include <complex>

#include <gtest/gtest.h>

#include "device/host_values.hpp"

namespace vitrail {
namespace {

TEST(HostValues, GoThereAndBack) {
  const std::vector<double> values = {1, -2.5, 1e10};
  float f32[3];
  double f64[3];
  std::complex<double> c128[3];
  for (const Tensor& tensor :
       {Tensor(f32, {3}, Dtype::f32), Tensor(f64, {3}, Dtype::f64), Tensor(c128, {3}, Dtype::c128)}) {
    from_doubles(values, tensor);
    EXPECT_EQ(to_doubles(tensor), values);
  }
  EXPECT_EQ(c128[1].imag(), 0);
}

TEST(HostValues, AreRoundedToBfloat16Once) {
  Bf16 bf16[3];
  const Tensor tensor(bf16, {3}, Dtype::bf16);
  from_doubles(std::vector<double>{-2.5, 1.0 + 0x1p-8 + 0x1p-40, 0.1}, tensor);
  EXPECT_EQ(bf16[0].bits, 0xC020);
  EXPECT_EQ(to_doubles(tensor), (std::vector<double>{-2.5, 1.0078125, 0.10009765625}));
}

TEST(HostValues, IntegersAreReadAsNumbers) {
  const std::int32_t i32[2] = {-3, 7};
  const std::int64_t i64[2] = {-3, 7};
  const std::uint8_t u8[2] = {3, 255};
  EXPECT_EQ(to_doubles(ConstTensor(i32, {2}, Dtype::i32)), (std::vector<double>{-3, 7}));
  EXPECT_EQ(to_doubles(ConstTensor(i64, {2}, Dtype::i64)), (std::vector<double>{-3, 7}));
  EXPECT_EQ(to_doubles(ConstTensor(u8, {2}, Dtype::u8)), (std::vector<double>{3, 255}));
}

TEST(HostValues, RefuseOtherSizesAndDtypes) {
  float f32[3];
  std::int32_t i32[3];
  EXPECT_THROW(from_doubles(std::vector<double>{1, 2}, Tensor(f32, {3}, Dtype::f32)), Error);
  EXPECT_THROW(from_doubles(std::vector<double>{1, 2, 3}, Tensor(i32, {3}, Dtype::i32)), Error);
}

}  // namespace
}  // namespace vitrail
