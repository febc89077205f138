#include "ops/cpu/gemm.hpp"

#include <oneapi/dnnl/dnnl.h>

#include "base/error.hpp"
#include "ops/cpu/workspace.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kStrip = 256;  // columns of b that are copied at a time when a is not a transpose

/// Which operands are copied. Measured with oneDNN 2.6 on Zen 3 (GF/s, before and after): x W, 216 x 3072 x 768: 45,
/// 93; x^T dy, 256 x 512 x 400 out of rows of 512 and 2048: 44, 92; a transposed b needs no copy.
struct Copies {
  bool a = false;
  bool b = false;
};
Copies copies(std::int64_t m, std::int64_t n, const Operand& a, const Operand& b) {
  if (b.transposed || m < 64 || n < 64) return {};
  if (!a.transposed) return {false, b.stride % 512 == 0};
  const auto fights = [&](std::int64_t stride) { return m * n >= (1 << 15) && stride >= 256 && stride % 128 == 0; };
  return {fights(a.stride), fights(b.stride)};
}

/// Row stride of a copy of n columns: whole cache lines, not a multiple of 512 bytes.
std::int64_t copy_stride(std::int64_t n) {
  const std::int64_t stride = aligned_floats(n) + 16;
  return stride % 128 == 0 ? stride + 16 : stride;
}
Operand copy_rows(const Operand& from, std::int64_t rows, std::int64_t n, float* to) {
  const std::int64_t stride = copy_stride(n);
  for (std::int64_t row = 0; row < rows; ++row) std::copy_n(from.data + row * from.stride, n, to + row * stride);
  return {to, stride, from.transposed};
}

void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b, Into into, float* c,
              std::int64_t stride) {
  // The same C interface in oneDNN 2 and 3.
  const dnnl_status_t rc = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0F, a.data,
                                      a.stride, b.data, b.stride, into == Into::add ? 1.0F : 0.0F, c, stride);
  VITRAIL_EXPECT(rc == dnnl_success, rc == dnnl_out_of_memory ? ExitCode::usage : ExitCode::other,
                 text("oneDNN failed with status ", static_cast<int>(rc), " on a product ", m, " x ", n, " x ", k),
                 rc == dnnl_out_of_memory ? "not enough memory" : "the arguments are wrong, or the library is",
                 rc == dnnl_out_of_memory ? "Try fewer leaves per pass" : "This is a bug");
}

}  // namespace

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b, Into into, float* c,
          std::int64_t stride, float* scratch) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (std::int64_t row = 0; row < m && into == Into::overwrite; ++row) std::fill_n(c + row * stride, n, 0.0F);
    return;
  }
  const Copies copy = scratch != nullptr ? copies(m, n, a, b) : Copies{};
  if (copy.a) {
    a = copy_rows(a, k, m, scratch);
    scratch += k * a.stride;
  }
  if (!copy.b) return multiply(m, n, k, a, b, into, c, stride);
  if (a.transposed) return multiply(m, n, k, a, copy_rows(b, k, n, scratch), into, c, stride);
  for (std::int64_t first = 0; first < n; first += kStrip) {
    const std::int64_t width = std::min(kStrip, n - first);
    const Operand strip = copy_rows({b.data + first, b.stride}, k, width, scratch);
    multiply(m, width, k, a, strip, into, c + first, stride);
  }
}

std::int64_t gemm_scratch(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b) {
  const Copies copy = copies(m, n, a, b);
  const std::int64_t columns = a.transposed ? n : std::min(n, kStrip);
  return k * ((copy.a ? copy_stride(m) : 0) + (copy.b ? copy_stride(columns) : 0));
}

}  // namespace vitrail::cpu
