#include "ops/cuda/gemm.hpp"

#include <algorithm>
#include <source_location>

#include "device/cuda/check.hpp"

namespace vitrail::cuda {

namespace {

constexpr std::int64_t kWorkspaceBytes = std::int64_t{32} << 20;
constexpr std::int64_t kMostAlignment = 16;

void check(cublasStatus_t rc, std::source_location where = std::source_location::current()) {
  if (rc == CUBLAS_STATUS_SUCCESS) return;
  const bool memory = rc == CUBLAS_STATUS_ALLOC_FAILED;
  fail(memory ? ExitCode::usage : ExitCode::other,
       {text("cuBLASLt failed with status ", static_cast<int>(rc), " at ", where.file_name(), ":", where.line()),
        memory ? "not enough memory" : "a product was refused, or an error of earlier work shows up here",
        memory ? "Use more GPUs, a smaller leaf or a smaller model" : ""});
}

cudaDataType_t cuda_type(Dtype dtype) {
  VITRAIL_EXPECT(dtype == Dtype::f32 || dtype == Dtype::bf16, ExitCode::other,
                 text("a product of ", name_of(dtype), " on the GPU"), "it multiplies f32 and bf16", "This is a bug");
  return dtype == Dtype::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

/// The alignment in bytes that rows of so many elements promise.
std::int64_t alignment_of(std::int64_t row_stride, Dtype dtype) {
  const std::int64_t bytes = row_stride * size_of(dtype);
  return std::min(kMostAlignment, bytes & -bytes);
}

template <class T>
void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t name, T value) {
  check(cublasLtMatmulDescSetAttribute(description, name, &value, sizeof(value)));
}
template <class T>
void set(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name, T value) {
  check(cublasLtMatrixLayoutSetAttribute(layout, name, &value, sizeof(value)));
}
template <class T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t name, T value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof(value)));
}

void set_batch(cublasLtMatrixLayout_t layout, std::int64_t count, std::int64_t stride) {
  set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(count));
  set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
}

bool has_bias(Epilogue epilogue) { return epilogue == Epilogue::bias || epilogue == Epilogue::gelu_bias; }
bool has_aux(Epilogue epilogue) { return epilogue == Epilogue::gelu_bias || epilogue == Epilogue::gelu_slope; }

cublasLtEpilogue_t cublas_epilogue(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::bias:
      return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::gelu_bias:
      return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Epilogue::gelu_slope:
      return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::none:
      break;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

template <class Pointer>
Pointer moved(Pointer data, std::int64_t elements, Dtype dtype) {
  using Byte = std::conditional_t<std::is_same_v<Pointer, const void*>, const std::byte, std::byte>;
  return data == nullptr ? nullptr : static_cast<Byte*>(data) + elements * size_of(dtype);
}

/// An address that is aligned to `alignment` bytes and not more, for the question what such a pointer would be good
/// for.
void* address_aligned_to(std::int64_t alignment) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(4096 + alignment));  // NOLINT(performance-no-int-to-ptr)
}

void expect_aligned(const void* data, std::int64_t batch_stride, std::int64_t alignment, Dtype dtype) {
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data));
  VITRAIL_EXPECT(address % alignment == 0 && batch_stride * size_of(dtype) % alignment == 0, ExitCode::other,
                 text("an operand of a matrix product is not aligned to ", alignment, " bytes"),
                 "its rows promise that, and the algorithm was chosen for it", "This is a bug in the calling layer");
}

void expect_operands_aligned(const Product& p) {
  expect_aligned(p.a.data, p.a.batch_stride, alignment_of(p.a.row_stride, p.inputs), p.inputs);
  expect_aligned(p.b.data, p.b.batch_stride, alignment_of(p.b.row_stride, p.inputs), p.inputs);
  const std::int64_t of_output = alignment_of(p.n, p.output);
  expect_aligned(p.d, p.d_stride, of_output, p.output);
  if (p.c != nullptr) expect_aligned(p.c, p.d_stride, of_output, p.output);
  if (has_bias(p.epilogue)) expect_aligned(p.bias, p.bias_stride, of_output, p.output);
  if (has_aux(p.epilogue)) expect_aligned(p.aux, p.aux_stride, of_output, p.output);
}

/// The library's matrices are column-major: a row-major product D = A B is its D^T = B^T A^T, whose operands lie in
/// memory as ours do. So its A is our B, and a bias for its rows is one for our columns.
cublasOperation_t operation(const Operand& operand) { return operand.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }

struct PreferenceTraits {
  using Handle = cublasLtMatmulPreference_t;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { static_cast<void>(cublasLtMatmulPreferenceDestroy(handle)); }
};

/// Sums are cut only into parts that are kept in f32 and added in a fixed order: never by atomics in place.
UniqueHandle<PreferenceTraits> preference_of(const Product& p) {
  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made));
  UniqueHandle<PreferenceTraits> preference(made);
  set(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kWorkspaceBytes));
  set(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  const auto align = [&](cublasLtMatmulPreferenceAttributes_t name, std::int64_t stride, Dtype dtype) {
    set(made, name, static_cast<std::uint32_t>(alignment_of(stride, dtype)));
  };
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.b.row_stride, p.inputs);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.a.row_stride, p.inputs);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.n, p.output);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.n, p.output);
  return preference;
}

}  // namespace

Gemm::Gemm(StreamDevice& device) : device_(device), memory_(device), workspace_(memory_.bytes(kWorkspaceBytes)) {
  cublasLtHandle_t made = nullptr;
  check(cublasLtCreate(&made));
  handle_ = UniqueHandle<HandleTraits>(made);
}

Gemm::Key Gemm::key_of(const Product& p) {
  return {.m = p.m,
          .n = p.n,
          .k = p.k,
          .a_stride = p.a.row_stride,
          .b_stride = p.b.row_stride,
          .a_transposed = p.a.transposed,
          .b_transposed = p.b.transposed,
          .inputs = p.inputs,
          .output = p.output,
          .epilogue = p.epilogue};
}

UniqueHandle<Gemm::LayoutTraits> Gemm::layout(const Operand& operand, Dtype dtype, std::int64_t rows,
                                              std::int64_t columns) {
  if (operand.transposed) std::swap(rows, columns);
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, cuda_type(dtype), static_cast<std::uint64_t>(columns),
                                   static_cast<std::uint64_t>(rows), operand.row_stride));
  return UniqueHandle<LayoutTraits>(made);
}

Gemm::Plan Gemm::make_plan(const Product& p) const {
  Plan plan;
  cublasLtMatmulDesc_t made = nullptr;
  check(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  plan.description = UniqueHandle<DescriptionTraits>(made);
  set(made, CUBLASLT_MATMUL_DESC_TRANSA, operation(p.b));
  set(made, CUBLASLT_MATMUL_DESC_TRANSB, operation(p.a));
  set(made, CUBLASLT_MATMUL_DESC_EPILOGUE, cublas_epilogue(p.epilogue));
  if (has_bias(p.epilogue)) {
    set(made, CUBLASLT_MATMUL_DESC_BIAS_POINTER, address_aligned_to(alignment_of(p.n, p.output)));
  }
  if (has_aux(p.epilogue)) {
    set(made, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.n);
    set(made, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, address_aligned_to(alignment_of(p.n, p.output)));
  }
  plan.a = layout(p.a, p.inputs, p.m, p.k);
  plan.b = layout(p.b, p.inputs, p.k, p.n);
  plan.d = layout({.row_stride = p.n}, p.output, p.m, p.n);
  choose_algorithm(p, plan);
  return plan;
}

void Gemm::choose_algorithm(const Product& p, Plan& plan) const {
  if (has_aux(p.epilogue) && p.n % 8 != 0) return;  // the library demands it of aux
  const UniqueHandle<PreferenceTraits> preference = preference_of(p);
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t rc =
      cublasLtMatmulAlgoGetHeuristic(handle_.get(), plan.description.get(), plan.b.get(), plan.a.get(), plan.d.get(),
                                     plan.d.get(), preference.get(), 1, &found, &count);
  // It says in one of three ways that it has none: no result, a result that is not to be used, or one of these.
  if (rc == CUBLAS_STATUS_NOT_SUPPORTED || rc == CUBLAS_STATUS_INVALID_VALUE) return;
  check(rc);
  plan.offered = count > 0 && found.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = found.algo;
}

Gemm::Plan& Gemm::plan_of(const Product& p) {
  const Key key = key_of(p);
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second;
  VITRAIL_EXPECT(!sealed_, ExitCode::other,
                 text("a verb of the cuda back end needs a product ", p.m, " x ", p.n, " x ", p.k),
                 "no algorithm is chosen once the back end is sealed: this shape was not seen before",
                 "This is a bug in the warm-up pass of the caller");
  return plans_.emplace(key, make_plan(p)).first->second;
}

bool Gemm::offers(const Product& p) {
  return p.m > 0 && p.n > 0 && p.k > 0 && (p.inputs == Dtype::bf16 || p.output == Dtype::f32) && plan_of(p).offered;
}

void Gemm::multiply(const Product& p) {
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  if (p.k == 0) return multiply_nothing(p);
  expect_operands_aligned(p);
  Plan& plan = plan_of(p);
  VITRAIL_EXPECT(plan.offered, ExitCode::other,
                 text("cuBLASLt has no algorithm for a product ", p.m, " x ", p.n, " x ", p.k, " of ",
                      name_of(p.inputs), " with epilogue ", static_cast<int>(p.epilogue)),
                 "this version of the library, or this GPU, lacks it", "");
  const std::int64_t part = part_of(p, plan);
  for (std::int64_t first = 0; first < p.batch; first += part) {
    multiply_part(p, plan, first, std::min(part, p.batch - first));
  }
}

/// The largest part of a batch that the algorithm accepts with our workspace; one always is.
std::int64_t Gemm::part_of(const Product& p, Plan& plan) const {
  const auto known = plan.parts.find(p.batch);
  if (known != plan.parts.end()) return known->second;
  std::int64_t part = p.batch;
  for (; part > 1; part = (part + 1) / 2) {
    set_batch(plan.a.get(), part, p.a.batch_stride);
    set_batch(plan.b.get(), part, p.b.batch_stride);
    set_batch(plan.d.get(), part, p.d_stride);
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t rc = cublasLtMatmulAlgoCheck(handle_.get(), plan.description.get(), plan.b.get(), plan.a.get(),
                                                      plan.d.get(), plan.d.get(), &plan.algorithm, &result);
    if (rc == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS &&
        result.workspaceSize <= static_cast<std::size_t>(kWorkspaceBytes)) {
      break;
    }
  }
  plan.parts.emplace(p.batch, part);
  return part;
}

void Gemm::multiply_part(const Product& p, const Plan& plan, std::int64_t first, std::int64_t count) const {
  const cublasLtMatmulDesc_t description = plan.description.get();
  set_batch(plan.a.get(), count, p.a.batch_stride);
  set_batch(plan.b.get(), count, p.b.batch_stride);
  set_batch(plan.d.get(), count, p.d_stride);
  if (has_bias(p.epilogue)) {
    set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, moved(p.bias, first * p.bias_stride, p.output));
    set(description, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, p.bias_stride);
  }
  if (has_aux(p.epilogue)) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, moved(p.aux, first * p.aux_stride, p.output));
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, p.aux_stride);
  }
  const float one = 1.0F;
  const float of_c = p.c != nullptr ? 1.0F : 0.0F;
  void* const d = moved(p.d, first * p.d_stride, p.output);
  const void* const c = p.c != nullptr ? moved(p.c, first * p.d_stride, p.output) : d;
  check(cublasLtMatmul(handle_.get(), description, &one, moved(p.b.data, first * p.b.batch_stride, p.inputs),
                       plan.b.get(), moved(p.a.data, first * p.a.batch_stride, p.inputs), plan.a.get(), &of_c, c,
                       plan.d.get(), d, plan.d.get(), &plan.algorithm, workspace_,
                       static_cast<std::size_t>(kWorkspaceBytes), device_.stream()));
}

/// D = C or 0: the sum has no terms.
void Gemm::multiply_nothing(const Product& p) const {
  VITRAIL_EXPECT(p.epilogue == Epilogue::none, ExitCode::other, "a product without terms has an epilogue",
                 "offers() says that there is none", "This is a bug");
  if (p.c == p.d) return;
  const auto bytes = static_cast<std::size_t>(p.m * p.n * size_of(p.output));
  for (std::int64_t i = 0; i < p.batch; ++i) {
    void* const d = moved(p.d, i * p.d_stride, p.output);
    if (p.c == nullptr) {
      cuda::check(cudaMemsetAsync(d, 0, bytes, device_.stream()));
    } else {
      cuda::check(
          cudaMemcpyAsync(d, moved(p.c, i * p.d_stride, p.output), bytes, cudaMemcpyDeviceToDevice, device_.stream()));
    }
  }
}

}  // namespace vitrail::cuda
