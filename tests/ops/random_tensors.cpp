// Compiled with optimisation, unlike the tests: most of their time goes by here.

#include "tests/ops/random_tensors.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>

#include "base/philox.hpp"

namespace vitrail::testing {

OwnedTensor::OwnedTensor(Dtype dtype, Shape shape) : dtype_(dtype), shape_(shape) {
  lines_.resize(static_cast<std::size_t>(shape.elements() * size_of(dtype)) / sizeof(Line) + 1);
  for (std::int64_t i = 0; i < elements(); ++i) set(i, std::numeric_limits<double>::quiet_NaN());
}

Tensor OwnedTensor::host() {
  mirror_.bring({data(), shape_, dtype_}, true);
  return {data(), shape_, dtype_};
}

ConstTensor OwnedTensor::host() const {
  bring();
  return {data(), shape_, dtype_};
}

double OwnedTensor::get(std::int64_t i) const {
  switch (dtype_) {
    case Dtype::f32:
      return static_cast<double>(as<float>()[i]);
    case Dtype::f64:
      return as<double>()[i];
    case Dtype::c128:
      return as<std::complex<double>>()[i].real();
    case Dtype::i32:
      return as<std::int32_t>()[i];
    case Dtype::i64:
      return static_cast<double>(as<std::int64_t>()[i]);
    case Dtype::u8:
      return as<std::uint8_t>()[i];
    case Dtype::bf16:
      return static_cast<double>(to_float(as<Bf16>()[i]));
  }
  fail(ExitCode::other, {"a test tensor of an unknown dtype", "not supported", ""});
}

void OwnedTensor::set(std::int64_t i, double value) {
  const bool garbage = std::isnan(value);
  switch (dtype_) {
    case Dtype::f32:
      as<float>()[i] = static_cast<float>(value);
      return;
    case Dtype::f64:
      as<double>()[i] = value;
      return;
    case Dtype::c128:
      as<std::complex<double>>()[i] = {value, garbage ? value : 0.0};
      return;
    case Dtype::i32:
      as<std::int32_t>()[i] = garbage ? -77 : static_cast<std::int32_t>(value);
      return;
    case Dtype::i64:
      as<std::int64_t>()[i] = garbage ? -77 : static_cast<std::int64_t>(value);
      return;
    case Dtype::u8:
      as<std::uint8_t>()[i] = garbage ? std::uint8_t{0xB3} : static_cast<std::uint8_t>(value);
      return;
    case Dtype::bf16:
      as<Bf16>()[i] = to_bf16(value);
      return;
  }
}

OwnedTensor OwnedTensor::to(Dtype dtype) const {
  if (!*this) return {};
  OwnedTensor other(dtype, shape_);
  for (std::int64_t i = 0; i < elements(); ++i) other.set(i, get(i));
  return other;
}

std::vector<double> OwnedTensor::values() const {
  std::vector<double> all;
  for (std::int64_t i = 0; i < elements(); ++i) all.push_back(get(i));
  return all;
}

double OwnedTensor::largest() const {
  double result = 0.0;
  for (std::int64_t i = 0; i < elements(); ++i) result = std::max(result, std::abs(get(i)));
  return result;
}

OwnedTensor random_tensor(Dtype dtype, Shape shape, std::uint32_t stream, double scale) {
  OwnedTensor tensor(dtype, shape);
  const Philox random(20240229, Purpose::test, stream);
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    tensor.set(i, static_cast<double>(static_cast<float>(scale * random.normal(static_cast<std::uint64_t>(i)))));
  return tensor;
}

OwnedTensor random_integers(Dtype dtype, Shape shape, std::uint32_t stream, std::int64_t below) {
  OwnedTensor tensor(dtype, shape);
  const Philox random(20240229, Purpose::test, stream);
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    tensor.set(i, std::floor(random.uniform(static_cast<std::uint64_t>(i)) * static_cast<double>(below)));
  return tensor;
}

double largest_difference(const OwnedTensor& a, const OwnedTensor& b) {
  VITRAIL_EXPECT(a.shape() == b.shape(), ExitCode::other, text(a.shape().str(), " against ", b.shape().str()),
                 "the test compares tensors of different shapes", "");
  double result = 0.0;
  for (std::int64_t i = 0; i < a.elements(); ++i) {
    const double difference = std::abs(a.get(i) - b.get(i));
    if (std::isnan(difference)) return difference;
    result = std::max(result, difference);
  }
  return result;
}

}  // namespace vitrail::testing
