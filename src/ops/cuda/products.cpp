#include "ops/cuda/products.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "ops/cuda/stored.hpp"

namespace vitrail::cuda {

namespace {

constexpr std::size_t kRoom = 0;        // scratch of take() ...
constexpr std::size_t kUnfinished = 1;  // ... of products before their last rounding, or of sums over leaves ...
constexpr std::size_t kSums = 2;        // ... of column sums

std::int64_t aligned(std::int64_t bytes) { return (bytes + 255) / 256 * 256; }

const void* moved(const void* data, std::int64_t elements, Dtype dtype) {
  return data == nullptr ? nullptr : static_cast<const std::byte*>(data) + elements * size_of(dtype);
}
void* moved(void* data, std::int64_t elements, Dtype dtype) {
  return data == nullptr ? nullptr : static_cast<std::byte*>(data) + elements * size_of(dtype);
}

}  // namespace

void Products::reserve(std::initializer_list<ConstTensor> operands, std::int64_t extra_bytes) {
  std::int64_t bytes = extra_bytes;
  for (const ConstTensor& operand : operands) {
    if (operand && operand.dtype != inputs_) bytes += aligned(operand.elements() * size_of(inputs_));
  }
  if (bytes == 0) return;
  room_ = static_cast<std::byte*>(scratch_[kRoom].bytes(bytes));
  left_ = bytes;
}

void* Products::take(std::int64_t bytes) {
  VITRAIL_EXPECT(aligned(bytes) <= left_, ExitCode::other, text(bytes, " bytes of scratch that were not reserved"),
                 "a verb of the cuda back end counted wrong", "This is a bug");
  left_ -= aligned(bytes);
  return std::exchange(room_, room_ + aligned(bytes));
}

const void* Products::input(const ConstTensor& operand) {
  if (operand.dtype == inputs_ || operand.elements() == 0) return operand.data;
  void* const rounded = take(operand.elements() * size_of(inputs_));
  convert(operand, {rounded, inputs_}, operand.elements(), stream_);
  return rounded;
}

// Either all experts of a leaf are a batch, or all leaves of an expert: whatever takes fewer calls. The bits are the
// same (gemm.hpp).
void Products::multiply_blocks(const Blocks& n, const Product& product, Steps of_a, Steps of_d) {
  const bool by_leaf = n.leaves <= n.experts;
  for (std::int64_t i = 0; i < (by_leaf ? n.leaves : n.experts); ++i) {
    const auto here = [&](const Steps& steps) { return i * (by_leaf ? steps.leaf : steps.expert); };
    const auto on = [&](const Steps& steps) { return by_leaf ? steps.expert : steps.leaf; };
    const Steps of_b{0, product.b.batch_stride};
    const Steps of_bias{0, product.bias_stride};
    Product p = product;
    p.batch = by_leaf ? n.experts : n.leaves;
    p.a.data = moved(product.a.data, here(of_a), product.inputs);
    p.a.batch_stride = on(of_a);
    p.b.data = moved(product.b.data, here(of_b), product.inputs);
    p.b.batch_stride = on(of_b);
    p.c = moved(product.c, here(of_d), product.output);
    p.d = moved(product.d, here(of_d), product.output);
    p.d_stride = on(of_d);
    p.bias = moved(product.bias, here(of_bias), product.output);
    p.bias_stride = on(of_bias);
    p.aux = moved(product.aux, here(of_d), product.output);
    p.aux_stride = on(of_d);
    gemm_.multiply(p);
  }
}

/// Gives the product its biases, rounded to its dtype as the library wants them; false if it has no such epilogue.
bool Products::with_bias(Product& product, std::int64_t experts, const float* b, std::int64_t stride,
                         Epilogue epilogue) {
  product.epilogue = epilogue;
  if (!gemm_.offers(product)) {
    product.epilogue = Epilogue::none;
    return false;
  }
  product.bias = b;
  product.bias_stride = stride;
  if (product.output == Dtype::f32) return true;
  auto* const rounded = take_elements<Bfloat16>(experts * product.n);
  const std::int64_t runs = stride == product.n ? 1 : experts;
  for (std::int64_t i = 0; i < runs; ++i) {
    convert({b + i * stride, Dtype::f32}, {rounded + i * product.n, Dtype::bf16}, experts * product.n / runs, stream_);
  }
  product.bias = rounded;
  product.bias_stride = product.n;
  return true;
}

/// y = product + b + residual, where the product has neither and no result yet.
void Products::multiply_rows(const Blocks& n, Product p, const ConstTensor& b, const ConstTensor& residual, Tensor y) {
  if (y.elements() == 0) return;
  p.output = y.dtype;
  p.d = y.data;
  const Steps of_a = dense(n, p.k);
  const Steps of_y = dense(n, p.n);
  const Rows rows{n.count(), p.m, p.n};
  Finish rest{.x = ConstElements(y),
              .bias = b ? b.as<float>() : nullptr,
              .experts = n.experts,
              .residual = residual ? residual.as<float>() : nullptr,
              .y = {y.data, y.dtype}};
  // The library adds what has the dtype of its result, and makes bf16 only of bf16.
  const bool in_one = y.dtype == Dtype::f32 || (inputs_ == Dtype::bf16 && !residual);
  if (in_one) {
    p.c = residual.data;
    if (!b || with_bias(p, n.experts, b.as<float>(), p.n, Epilogue::bias)) return multiply_blocks(n, p, of_a, of_y);
    rest.residual = nullptr;
  }
  if (y.dtype != Dtype::f32) {
    p.output = Dtype::f32;
    p.c = nullptr;
    p.d = scratch_[kUnfinished].bytes(y.elements() * size_of(Dtype::f32));
    rest.x = {p.d, Dtype::f32};
  }
  multiply_blocks(n, p, of_a, of_y);
  finish(rows, rest, stream_);
}

Product Products::forward_product(const Blocks& n, const void* x, const void* w) const {
  return {.m = n.rows,
          .n = n.out,
          .k = n.in,
          .a = {.data = x, .row_stride = n.in},
          .b = {.data = w, .row_stride = n.out, .batch_stride = n.in * n.out},
          .inputs = inputs_};
}

Product Products::gradient_product(const Blocks& n, const void* dy, const void* w) const {
  return {.m = n.rows,
          .n = n.in,
          .k = n.out,
          .a = {.data = dy, .row_stride = n.out},
          .b = {.data = w, .row_stride = n.out, .batch_stride = n.in * n.out, .transposed = true},
          .inputs = inputs_};
}

void Products::forward(const Blocks& n, const void* x, const void* w, const ConstTensor& b, const ConstTensor& residual,
                       Tensor y) {
  multiply_rows(n, forward_product(n, x, w), b, residual, y);
}

bool Products::forward_gelu(const Blocks& n, const void* x, const void* w, const ConstTensor& b, Tensor u, Tensor h) {
  if (inputs_ != Dtype::bf16 || u.dtype != h.dtype) return false;
  Product product = forward_product(n, x, w);
  product.output = h.dtype;
  product.d = h.data;
  product.aux = u.data;
  if (!with_bias(product, n.experts, b.as<float>(), n.out, Epilogue::gelu_bias)) return false;
  multiply_blocks(n, product, dense(n, n.in), dense(n, n.out));
  return true;
}

bool Products::forward_three(const ThreeProducts& a) {
  if (inputs_ != Dtype::bf16 && a.y.dtype != Dtype::f32) return false;
  const Blocks n{a.leaves, 3, a.rows, a.in, a.out};
  Product product = forward_product(n, a.x, a.w);
  product.b.batch_stride = a.w_stride;
  product.output = a.y.dtype;
  product.d = a.y.data;
  if (!with_bias(product, n.experts, a.b, a.b_stride, Epilogue::bias)) return false;
  multiply_blocks(n, product, {a.rows * a.in, 0}, {a.rows * a.out, a.y_stride});
  return true;
}

void Products::input_gradient(const Blocks& n, const void* dy, const void* w, const ConstTensor& dresidual, Tensor dx) {
  multiply_rows(n, gradient_product(n, dy, w), {}, dresidual, dx);
}

bool Products::input_gradient_gelu(const Blocks& n, const void* dy, const void* w, const ConstTensor& u, Tensor du) {
  if (inputs_ != Dtype::bf16 || u.dtype != du.dtype) return false;
  Product product = gradient_product(n, dy, w);
  product.output = du.dtype;
  product.d = du.data;
  product.epilogue = Epilogue::gelu_slope;
  product.aux = const_cast<void*>(u.data);  // it is read
  if (!gemm_.offers(product)) return false;
  multiply_blocks(n, product, dense(n, n.out), dense(n, n.in));
  return true;
}

void Products::weight_gradient(const WeightGradient& a) {
  const std::int64_t levels = std::countr_zero(static_cast<std::uint64_t>(a.leaves));
  float* const scratch = levels == 0 ? nullptr
                                     : static_cast<float*>(scratch_[kUnfinished].bytes(levels * a.batch * a.in * a.out *
                                                                                       std::int64_t{sizeof(float)}));
  weight_gradient_tree(a, 0, a.leaves, a.dw, a.dw_stride, scratch);
}

/// dw = the sum over `count` leaves: the earlier half here, the later half on a level of its own, and their sum.
void Products::weight_gradient_tree(const WeightGradient& a, std::int64_t first, std::int64_t count, float* dw,
                                    std::int64_t stride, float* levels) {
  const std::int64_t weights = a.in * a.out;
  if (count == 1) {
    return gemm_.multiply(
        {.m = a.in,
         .n = a.out,
         .k = a.rows,
         .batch = a.batch,
         .a = {.data = moved(a.x, first * a.x_of_leaf, inputs_),
               .row_stride = a.in,
               .batch_stride = a.x_stride,
               .transposed = true},
         .b = {.data = moved(a.dy, first * a.dy_of_leaf, inputs_), .row_stride = a.dy_row, .batch_stride = a.dy_stride},
         .inputs = inputs_,
         .output = Dtype::f32,
         .d = dw,
         .d_stride = stride});
  }
  float* const above = levels + a.batch * weights;
  weight_gradient_tree(a, first, count / 2, dw, stride, above);
  weight_gradient_tree(a, first + count / 2, count / 2, levels, weights, above);
  if (stride == weights) return add(levels, dw, a.batch * weights, stream_);
  for (std::int64_t i = 0; i < a.batch; ++i) add(levels + i * weights, dw + i * stride, weights, stream_);
}

void Products::weight_gradient(const Blocks& n, const void* x, const void* dy, Tensor dw) {
  weight_gradient({.leaves = n.leaves,
                   .batch = n.experts,
                   .rows = n.rows,
                   .in = n.in,
                   .out = n.out,
                   .x = x,
                   .x_of_leaf = n.experts * n.rows * n.in,
                   .x_stride = n.rows * n.in,
                   .dy = dy,
                   .dy_row = n.out,
                   .dy_of_leaf = n.experts * n.rows * n.out,
                   .dy_stride = n.rows * n.out,
                   .dw = dw.as<float>(),
                   .dw_stride = n.in * n.out});
}

float* Products::partial_sums(const Blocks& n) {
  const Rows rows{n.count(), n.rows, n.out};
  const std::int64_t sums = std::max<std::int64_t>(1, rows.blocks * rows.pieces() * rows.n);
  return static_cast<float*>(scratch_[kSums].bytes(sums * std::int64_t{sizeof(float)}));
}

void Products::finish_bias_gradient(const Blocks& n, const float* partial, float* db) {
  const Rows rows{n.count(), n.rows, n.out};
  finish_column_sums(
      {.partial = partial, .leaves = n.leaves, .experts = n.experts, .pieces = rows.pieces(), .n = n.out, .sums = db},
      stream_);
}

const void* Products::input_and_bias_gradient(const Blocks& n, const ConstTensor& dy, Tensor db) {
  if (!db) return input(dy);
  const bool rounds = dy.dtype != inputs_ && dy.elements() > 0;
  void* const rounded = rounds ? take(dy.elements() * size_of(inputs_)) : nullptr;
  float* const partial = partial_sums(n);
  read_rows({n.count(), n.rows, n.out}, dy, {.copy = {rounded, inputs_}, .copy_stride = n.out, .partial = partial},
            stream_);
  finish_bias_gradient(n, partial, db.as<float>());
  return rounds ? rounded : dy.data;
}

}  // namespace vitrail::cuda
