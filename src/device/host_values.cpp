#include "device/host_values.hpp"

#include <complex>

namespace vitrail {

namespace {
template <class T>
void write(std::span<const double> values, Tensor to) {
  T* out = to.as<T>();
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = static_cast<T>(values[i]);
}
void write_bf16(std::span<const double> values, Tensor to) {
  for (std::size_t i = 0; i < values.size(); ++i) to.as<Bf16>()[i] = to_bf16(values[i]);
}
template <class T>
std::vector<double> read(ConstTensor from) {
  const T* in = from.as<T>();
  return {in, in + from.elements()};
}
}  // namespace

void from_doubles(std::span<const double> values, Tensor to) {
  VITRAIL_EXPECT(std::ssize(values) == to.elements(), ExitCode::other,
                 text(values.size(), " values for a tensor ", to.shape.str()), "the numbers differ", "");
  switch (to.dtype) {
    case Dtype::f32:
      return write<float>(values, to);
    case Dtype::f64:
      return write<double>(values, to);
    case Dtype::c128:
      return write<std::complex<double>>(values, to);
    case Dtype::bf16:
      return write_bf16(values, to);
    default:
      fail(ExitCode::other, {text("values into ", name_of(to.dtype)), "not a floating-point tensor", ""});
  }
}

std::vector<double> to_doubles(ConstTensor from) {
  switch (from.dtype) {
    case Dtype::f32:
      return read<float>(from);
    case Dtype::f64:
      return read<double>(from);
    case Dtype::i32:
      return read<std::int32_t>(from);
    case Dtype::i64: {
      const auto* in = from.as<std::int64_t>();
      std::vector<double> values;
      for (std::int64_t i = 0; i < from.elements(); ++i) values.push_back(static_cast<double>(in[i]));
      return values;
    }
    case Dtype::u8:
      return read<std::uint8_t>(from);
    case Dtype::c128: {
      const auto* in = from.as<std::complex<double>>();
      std::vector<double> values;
      for (std::int64_t i = 0; i < from.elements(); ++i) values.push_back(in[i].real());
      return values;
    }
    case Dtype::bf16: {
      const auto* in = from.as<Bf16>();
      std::vector<double> values;
      for (std::int64_t i = 0; i < from.elements(); ++i) values.push_back(static_cast<double>(to_float(in[i])));
      return values;
    }
  }
  fail(ExitCode::other, {text("values of ", name_of(from.dtype)), "not readable as numbers", ""});
}

namespace {
/// A host tensor of the dtype and shape of another.
struct HostCopy {
  explicit HostCopy(const ConstTensor& like)
      : bytes(static_cast<std::size_t>(like.bytes())), tensor(bytes.data(), like.shape, like.dtype) {}
  std::vector<std::byte> bytes;
  Tensor tensor;
};
}  // namespace

void from_doubles(std::span<const double> values, Device& device, Tensor to) {
  if (to.device == DeviceKind::cpu) return from_doubles(values, to);
  const HostCopy host(to);
  from_doubles(values, host.tensor);
  device.copy(host.tensor, to);
}

std::vector<double> to_doubles(Device& device, ConstTensor from) {
  if (from.device == DeviceKind::cpu) return to_doubles(from);
  const HostCopy host(from);
  device.copy(from, host.tensor);
  return to_doubles(host.tensor);
}

}  // namespace vitrail
