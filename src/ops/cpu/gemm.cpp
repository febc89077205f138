#include "ops/cpu/gemm.hpp"

#include <array>

#include <oneapi/dnnl/dnnl.h>

#include "base/error.hpp"
#include "ops/cpu/elementwise_kernels.hpp"
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

/// An operand that is `rows` x `columns` in the product, as it is stored.
struct Stored {
  std::int64_t rows, columns;
};
Stored stored(const Operand& operand, std::int64_t rows, std::int64_t columns) {
  return operand.transposed ? Stored{columns, rows} : Stored{rows, columns};
}

std::int64_t floats_of_bf16(std::int64_t count) { return aligned_floats((count + 1) / 2); }
const Bf16* rounded_to_bf16(const Operand& from, const Stored& s, float* to) {
  Bf16* const rows = reinterpret_cast<Bf16*>(to);
  if (from.stride == s.columns) {
    to_bf16_run(from.data, rows, s.rows * s.columns);
  } else {
    for (std::int64_t row = 0; row < s.rows; ++row)
      to_bf16_run(from.data + row * from.stride, rows + row * s.columns, s.columns);
  }
  return rows;
}
Operand rounded_to_floats(const Operand& from, const Stored& s, float* to) {
  const std::int64_t stride = copy_stride(s.columns);
  for (std::int64_t row = 0; row < s.rows; ++row)
    round_run(from.data + row * from.stride, to + row * stride, s.columns);
  return {to, stride, from.transposed};
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

Gemm::Gemm(Precision precision, bool machine_has_bf16)
    : way_(precision == Precision::f32 ? Way::f32
           : machine_has_bf16          ? Way::bf16
                                       : Way::f32_of_rounded) {}

std::int64_t Gemm::scratch(const Cut& m, const Cut& n, const Cut& k, Operand a, Operand b, Into into) {
  std::int64_t most = 0;
  const auto add = [&](std::int64_t rows, std::int64_t columns, std::int64_t terms) {
    if (rows <= 0 || columns <= 0 || terms <= 0) return;
    const Stored of_a = stored(a, rows, terms);
    const Stored of_b = stored(b, terms, columns);
    std::int64_t floats = 0;
    if (way_ == Way::f32) {
      floats = gemm_scratch(rows, columns, terms, a, b);
    } else if (way_ == Way::f32_of_rounded) {
      floats = of_a.rows * copy_stride(of_a.columns) + of_b.rows * copy_stride(of_b.columns);
    } else {
      const Bf16Shape shape{rows, columns, terms, a.transposed, b.transposed, into == Into::add};
      floats = floats_of_bf16(rows * terms) + floats_of_bf16(terms * columns) + product(shape).scratch();
    }
    most = std::max(most, floats);
  };
  // All pieces of a cut but the last are of one length.
  const auto lengths = [](const Cut& cut) { return std::array{cut.length(0), cut.length(cut.pieces() - 1)}; };
  for (const std::int64_t rows : lengths(m)) {
    for (const std::int64_t columns : lengths(n)) {
      for (const std::int64_t terms : lengths(k)) add(rows, columns, terms);
    }
  }
  return aligned_floats(most);
}

const Bf16Product& Gemm::product(const Bf16Shape& shape) {
  const auto known = products_.find(shape);
  if (known != products_.end()) return known->second;
  VITRAIL_EXPECT(!sealed_, ExitCode::other,
                 text("a verb of the cpu back end needs a bf16 product ", shape.m, " x ", shape.n, " x ", shape.k),
                 "no primitive is made once the back end is sealed: this shape was not seen before",
                 "This is a bug in the warm-up pass of the caller");
  return products_.emplace(shape, Bf16Product(shape)).first->second;
}

void Gemm::operator()(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b, Into into, float* c,
                      float* scratch) const {
  if (way_ == Way::f32 || m == 0 || n == 0 || k == 0) return gemm(m, n, k, a, b, into, c, n, scratch);
  const Stored of_a = stored(a, m, k);
  const Stored of_b = stored(b, k, n);
  if (way_ == Way::f32_of_rounded) {
    const Operand first = rounded_to_floats(a, of_a, scratch);
    const Operand second = rounded_to_floats(b, of_b, scratch + of_a.rows * first.stride);
    return multiply(m, n, k, first, second, into, c, n);
  }
  const auto known = products_.find({m, n, k, a.transposed, b.transposed, into == Into::add});
  VITRAIL_EXPECT(known != products_.end(), ExitCode::other,
                 text("a bf16 product ", m, " x ", n, " x ", k, " as it comes"), "its scratch was not asked for",
                 "This is a bug");
  float* const place_of_b = scratch + floats_of_bf16(m * k);
  known->second(rounded_to_bf16(a, of_a, scratch), rounded_to_bf16(b, of_b, place_of_b), c,
                place_of_b + floats_of_bf16(k * n));
}

}  // namespace vitrail::cpu
