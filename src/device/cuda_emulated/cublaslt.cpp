// cuBLASLt: descriptors, the heuristic, and the checks of a call.

#include "cublasLt.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "emulation.hpp"
#include "machine.hpp"
#include "plain_product.hpp"

using namespace vitrail::emulated;

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  int32_t compute = CUBLAS_COMPUTE_32F, scale = CUDA_R_32F, pointer_mode = 0;
  int32_t transa = CUBLAS_OP_N, transb = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
  int64_t bias_stride = 0;
  int32_t bias_type = -1;
  void* aux = nullptr;
  int64_t aux_ld = 0, aux_stride = 0;
  int32_t aux_type = -1;
};
struct cublasLtMatrixLayoutOpaque_t {
  uint32_t type = CUDA_R_32F;
  int32_t order = CUBLASLT_ORDER_COL;
  uint64_t rows = 0, columns = 0;
  int64_t ld = 0;
  int32_t batches = 1;
  int64_t stride = 0;
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint32_t search_mode = 0, reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

namespace {

/// What a heuristic's result holds: the problem that it is for, without batch and pointers, and what it needs.
struct Token {
  uint64_t problem;
  uint64_t workspace;
  uint32_t alignment[4];
};
constexpr uint64_t kWorkspaceOfAnAlgorithm = 4096;
constexpr std::uintptr_t kAlignment = 16;

template <class Field>
cublasStatus_t set(Field& field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(Field)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t refused(cublasStatus_t status, const char* why) {
  std::fprintf(stderr, "CUDA emulation: cuBLASLt: %s: %s\n", cublasLtGetStatusName(status), why);
  return status;
}

size_t size_of(uint32_t type) { return type == CUDA_R_16BF ? 2 : 4; }

uint64_t mixed(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x9E3779B97F4A7C15U + (hash >> 29); }

/// A call's descriptors, checked.
class Problem {
 public:
  Problem(const cublasLtMatmulDescOpaque_t& desc, const cublasLtMatrixLayoutOpaque_t& a,
          const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& c,
          const cublasLtMatrixLayoutOpaque_t& d)
      : desc_(desc), a_(a), b_(b), c_(c), d_(d) {}

  [[nodiscard]] int64_t m() const { return static_cast<int64_t>(d_.rows); }
  [[nodiscard]] int64_t n() const { return static_cast<int64_t>(d_.columns); }
  [[nodiscard]] int64_t k() const { return static_cast<int64_t>(desc_.transa == CUBLAS_OP_N ? a_.columns : a_.rows); }
  [[nodiscard]] bool uses_bias() const {
    return (desc_.epilogue & (CUBLASLT_EPILOGUE_BIAS | 16U | CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB)) != 0;
  }
  [[nodiscard]] bool uses_aux() const { return (desc_.epilogue & 128U) != 0; }
  [[nodiscard]] uint32_t bias_type() const { return desc_.bias_type < 0 ? d_.type : uint32_t(desc_.bias_type); }
  [[nodiscard]] uint32_t aux_type() const { return desc_.aux_type < 0 ? d_.type : uint32_t(desc_.aux_type); }

  [[nodiscard]] cublasStatus_t check() const {
    if (desc_.compute == CUBLAS_COMPUTE_64F || desc_.scale != CUDA_R_32F || desc_.pointer_mode != 0) {
      return refused(CUBLAS_STATUS_NOT_SUPPORTED, "only f32 compute and scale with host pointers are emulated");
    }
    for (const auto* layout : {&a_, &b_, &c_, &d_}) {
      const auto line = layout->order == CUBLASLT_ORDER_COL ? layout->rows : layout->columns;
      if (layout->rows == 0 || layout->columns == 0 || layout->ld < static_cast<int64_t>(line)) {
        return refused(CUBLAS_STATUS_INVALID_VALUE, "an empty matrix, or a leading dimension shorter than a line");
      }
      if (layout->batches != d_.batches || layout->batches < 1) {
        return refused(CUBLAS_STATUS_INVALID_VALUE, "batch counts that differ");
      }
      if (layout->type != CUDA_R_32F && layout->type != CUDA_R_16BF) {
        return refused(CUBLAS_STATUS_NOT_SUPPORTED, "only f32 and bf16 are emulated");
      }
    }
    const auto k_of_b = desc_.transb == CUBLAS_OP_N ? b_.rows : b_.columns;
    const auto m_of_a = desc_.transa == CUBLAS_OP_N ? a_.rows : a_.columns;
    const auto n_of_b = desc_.transb == CUBLAS_OP_N ? b_.columns : b_.rows;
    if (m_of_a != d_.rows || n_of_b != d_.columns || k_of_b != static_cast<uint64_t>(k()) || c_.rows != d_.rows ||
        c_.columns != d_.columns) {
      return refused(CUBLAS_STATUS_INVALID_VALUE, "dimensions that do not fit together");
    }
    if (a_.type != b_.type || c_.type != d_.type || (a_.type == CUDA_R_32F && d_.type != CUDA_R_32F)) {
      return refused(CUBLAS_STATUS_NOT_SUPPORTED, "a combination of types that cuBLASLt does not have");
    }
    return check_epilogue();
  }

  /// The same for every call of this shape.
  [[nodiscard]] uint64_t key() const {
    uint64_t hash = mixed(desc_.epilogue, static_cast<uint64_t>(desc_.compute));
    hash = mixed(mixed(hash, static_cast<uint64_t>(desc_.transa)), static_cast<uint64_t>(desc_.transb));
    for (const auto* layout : {&a_, &b_, &c_, &d_}) {
      hash = mixed(mixed(hash, layout->type), static_cast<uint64_t>(layout->order));
      hash = mixed(mixed(mixed(hash, layout->rows), layout->columns), static_cast<uint64_t>(layout->ld));
    }
    return uses_aux() ? mixed(hash, static_cast<uint64_t>(desc_.aux_ld)) : hash;
  }

  [[nodiscard]] Product product(float alpha, float beta) const {
    Product product;
    product.m = m();
    product.n = n();
    product.k = k();
    product.batches = d_.batches;
    product.alpha = alpha;
    product.beta = beta;
    product.a = matrix(a_, desc_.transa != CUBLAS_OP_N);
    product.b = matrix(b_, desc_.transb != CUBLAS_OP_N);
    product.c = matrix(c_, false);
    product.d = matrix(d_, false);
    product.epilogue = static_cast<cublasLtEpilogue_t>(desc_.epilogue);
    product.bias = {desc_.bias, static_cast<cudaDataType>(bias_type()), 1, 0, desc_.bias_stride};
    product.aux = {desc_.aux, static_cast<cudaDataType>(aux_type()), 1, desc_.aux_ld, desc_.aux_stride};
    return product;
  }

 private:
  [[nodiscard]] cublasStatus_t check_epilogue() const {
    switch (static_cast<cublasLtEpilogue_t>(desc_.epilogue)) {
      case CUBLASLT_EPILOGUE_DEFAULT:
        return CUBLAS_STATUS_SUCCESS;
      case CUBLASLT_EPILOGUE_BIAS:
      case CUBLASLT_EPILOGUE_GELU:
      case CUBLASLT_EPILOGUE_GELU_AUX:
      case CUBLASLT_EPILOGUE_GELU_BIAS:
      case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
      case CUBLASLT_EPILOGUE_DGELU:
      case CUBLASLT_EPILOGUE_DGELU_BGRAD:
      case CUBLASLT_EPILOGUE_BGRADA:
      case CUBLASLT_EPILOGUE_BGRADB:
        break;
      default:
        return refused(CUBLAS_STATUS_NOT_SUPPORTED, "an epilogue that is not emulated");
    }
    if (d_.order != CUBLASLT_ORDER_COL) {
      return refused(CUBLAS_STATUS_NOT_SUPPORTED, "an epilogue wants D in column order");
    }
    if (uses_bias() && bias_type() != d_.type) {
      return refused(CUBLAS_STATUS_INVALID_VALUE, "a bias of another type than D");
    }
    if (!uses_aux()) return CUBLAS_STATUS_SUCCESS;
    if (aux_type() != d_.type) return refused(CUBLAS_STATUS_INVALID_VALUE, "an aux matrix of another type than D");
    if (desc_.aux_ld % 8 != 0 || desc_.aux_stride % 8 != 0 || desc_.aux_ld < m()) {
      return refused(CUBLAS_STATUS_INVALID_VALUE, "the aux matrix's leading dimension or stride is no multiple of 8");
    }
    return CUBLAS_STATUS_SUCCESS;
  }

  static Matrix matrix(const cublasLtMatrixLayoutOpaque_t& layout, bool transposed) {
    Matrix matrix{nullptr, static_cast<cudaDataType>(layout.type), 1, layout.ld, layout.stride};
    if ((layout.order == CUBLASLT_ORDER_ROW) != transposed) std::swap(matrix.row, matrix.column);
    return matrix;
  }

  const cublasLtMatmulDescOpaque_t& desc_;
  const cublasLtMatrixLayoutOpaque_t &a_, &b_, &c_, &d_;
};

/// Whether every matrix of `rows` x `columns` of a batch lies in one block of device memory, aligned.
bool is_good(const Matrix& matrix, int64_t rows, int64_t columns, int64_t batches, std::uintptr_t alignment) {
  const auto size = static_cast<int64_t>(size_of(matrix.type));
  const int64_t elements = (rows - 1) * matrix.row + (columns - 1) * matrix.column + 1;
  bool good = true;
  for (int64_t i = 0; i < batches; ++i) {
    const char* const first = static_cast<const char*>(matrix.data) + i * matrix.batch * size;
    good = good && reinterpret_cast<std::uintptr_t>(first) % alignment == 0 &&
           machine().memory.is_in_a_block(first, static_cast<size_t>(elements * size));
  }
  return good;
}

cublasStatus_t check_memory(const Product& p, const Problem& problem, const uint32_t (&alignment)[4]) {
  bool good = is_good(p.a, p.m, p.k, p.batches, alignment[0]) && is_good(p.b, p.k, p.n, p.batches, alignment[1]);
  good = good && is_good(p.d, p.m, p.n, p.batches, alignment[3]);
  if (p.beta != 0.0F) good = good && is_good(p.c, p.m, p.n, p.batches, alignment[2]);
  if (!good) {
    return refused(CUBLAS_STATUS_INVALID_VALUE,
                   "a matrix that is not aligned, or not inside one block of device memory");
  }
  const int64_t bias_length = p.epilogue == CUBLASLT_EPILOGUE_BGRADB ? p.n : p.m;
  if (problem.uses_bias() && !is_good(p.bias, bias_length, 1, p.batches, kAlignment)) {
    return refused(CUBLAS_STATUS_INVALID_VALUE, "a bias that is not aligned, or not inside one block of device memory");
  }
  if (problem.uses_aux() && !is_good(p.aux, p.m, p.n, p.batches, kAlignment)) {
    return refused(CUBLAS_STATUS_INVALID_VALUE, "an aux matrix that is not aligned, or not inside one block");
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

// --- descriptors -----------------------------------------------------------------------------------------------------
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (standing_error() != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return 130100; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR:
      return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_LICENSE_ERROR:
      return "CUBLAS_STATUS_LICENSE_ERROR";
  }
  return "unrecognized status";
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType scale) {
  *desc = new cublasLtMatmulDescOpaque_t;
  (*desc)->compute = compute;
  (*desc)->scale = scale;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
      return set(desc->compute, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
      return set(desc->scale, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return set(desc->pointer_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(desc->transa, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(desc->transb, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
      return set(desc->bias_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return set(desc->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return set(desc->aux_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
      return set(desc->aux_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
      return set(desc->aux_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set(desc->bias_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t;
  (*layout)->type = type;
  (*layout)->rows = rows;
  (*layout)->columns = columns;
  (*layout)->ld = ld;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return set(layout->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return set(layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return set(layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return set(layout->columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return set(layout->ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return set(layout->batches, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return set(layout->stride, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
      return set(preference->search_mode, value, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return set(preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return set(preference->reduction_schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return set(preference->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return set(preference->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return set(preference->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return set(preference->alignment[3], value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

// --- calls -----------------------------------------------------------------------------------------------------------
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* returned) {
  if (handle == nullptr || desc == nullptr || a == nullptr || b == nullptr || c == nullptr || d == nullptr ||
      preference == nullptr || returned == nullptr || requested < 1) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  *returned = 0;
  const Problem problem(*desc, *a, *b, *c, *d);
  if (const cublasStatus_t status = problem.check(); status != CUBLAS_STATUS_SUCCESS) return status;
  if (desc->epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
    if (!simulation().has_fused_epilogues) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (const auto* layout : {a, b, c, d}) {  // no algorithm for lines that start unaligned
      if (layout->ld * static_cast<int64_t>(size_of(layout->type)) % 16 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    }
  }
  Token token{problem.key(), std::min(preference->workspace, kWorkspaceOfAnAlgorithm), {}};
  for (int i = 0; i < 4; ++i) token.alignment[i] = std::min<uint32_t>(preference->alignment[i], kAlignment);
  results[0] = {};
  std::memcpy(results[0].algo.data, &token, sizeof(token));
  results[0].workspaceSize = token.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1.0F;
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
  if (handle == nullptr || desc == nullptr || a == nullptr || b == nullptr || c == nullptr || d == nullptr ||
      algorithm == nullptr || result == nullptr) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const Problem problem(*desc, *a, *b, *c, *d);
  if (const cublasStatus_t status = problem.check(); status != CUBLAS_STATUS_SUCCESS) return status;
  Token token{};
  std::memcpy(&token, algorithm->data, sizeof(token));
  if (token.problem != problem.key()) return CUBLAS_STATUS_INVALID_VALUE;
  if (d->batches > simulation().largest_batch) return CUBLAS_STATUS_NOT_SUPPORTED;
  *result = {};
  result->algo = *algorithm;
  result->workspaceSize = token.workspace;
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  if (handle == nullptr || desc == nullptr || alpha == nullptr || beta == nullptr || a_layout == nullptr ||
      b_layout == nullptr || c_layout == nullptr || d_layout == nullptr) {
    return refused(CUBLAS_STATUS_INVALID_VALUE, "a null argument");
  }
  const std::lock_guard lock(machine().mutex);
  if (standing_error() != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
  const Problem problem(*desc, *a_layout, *b_layout, *c_layout, *d_layout);
  if (const cublasStatus_t status = problem.check(); status != CUBLAS_STATUS_SUCCESS) return status;
  Token token{problem.key(), 0, {kAlignment, kAlignment, kAlignment, kAlignment}};
  if (algorithm != nullptr) std::memcpy(&token, algorithm->data, sizeof(token));
  if (token.problem != problem.key()) return refused(CUBLAS_STATUS_INVALID_VALUE, "an algorithm for another problem");
  if (d_layout->batches > simulation().largest_batch) return refused(CUBLAS_STATUS_NOT_SUPPORTED, "too large a batch");
  if (workspace_bytes < token.workspace) return refused(CUBLAS_STATUS_INVALID_VALUE, "too small a workspace");
  if (token.workspace > 0 && (!machine().memory.is_in_a_block(workspace, workspace_bytes) ||
                              reinterpret_cast<std::uintptr_t>(workspace) % kAlignment != 0)) {
    return refused(CUBLAS_STATUS_INVALID_VALUE, "a workspace that is not aligned device memory");
  }
  Product product = problem.product(*static_cast<const float*>(alpha), *static_cast<const float*>(beta));
  product.a.data = const_cast<void*>(a);
  product.b.data = const_cast<void*>(b);
  product.c.data = const_cast<void*>(c);
  product.d.data = d;
  if (const cublasStatus_t status = check_memory(product, problem, token.alignment); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  CUstream_st* found = machine().find(stream);
  if (found == nullptr) return refused(CUBLAS_STATUS_INVALID_VALUE, "a stream that is none");
  const auto run = [product, workspace, bytes = token.workspace] {
    if (bytes > 0) std::memset(workspace, 0xFF, bytes);  // whoever shares it sees that
    run_product(product);
    return std::string();
  };
  const cudaError_t error = machine().enqueue(*found, {WorkKind::product, run});
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
