#include <cmath>
#include <random>

#include "cublasLt.h"
#include "cuda_bf16.h"
#include "tests/emulated/launch_kernel.hpp"

namespace vitrail::emulated {
namespace {

constexpr std::size_t kBatch = 2;

/// Column-major batch of matrices with a leading dimension, on the host in f32 and on the device in its type.
struct Operand {
  Operand(std::int64_t rows_, std::int64_t columns_, cudaDataType type_, unsigned int seed)
      : rows(rows_), columns(columns_), ld((rows_ + 7) / 8 * 8 + 8), stride(ld * columns_), type(type_) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0F, 0.5F);
    for (std::size_t i = 0; i < kBatch * static_cast<std::size_t>(stride); ++i) {
      host.push_back(__bfloat162float(__float2bfloat16_rn(normal(random))));
    }
    const std::vector<__nv_bfloat16> small(host.begin(), host.end());
    const std::size_t bytes = host.size() * size();
    EXPECT_EQ(cudaMalloc(&device, bytes), cudaSuccess);
    const void* from = type == CUDA_R_32F ? static_cast<const void*>(host.data()) : small.data();
    EXPECT_EQ(cudaMemcpy(device, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, type, static_cast<std::uint64_t>(rows),
                                         static_cast<std::uint64_t>(columns), ld),
              CUBLAS_STATUS_SUCCESS);
    const std::int32_t batch = kBatch;
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, batch);
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
  }
  Operand(const Operand&) = delete;
  Operand& operator=(const Operand&) = delete;
  ~Operand() {
    EXPECT_EQ(cudaFree(device), cudaSuccess);
    EXPECT_EQ(cublasLtMatrixLayoutDestroy(layout), CUBLAS_STATUS_SUCCESS);
  }
  template <class T>
  void set(cublasLtMatrixLayoutAttribute_t attribute, const T& value) {
    EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof(value)), CUBLAS_STATUS_SUCCESS);
  }
  [[nodiscard]] std::size_t size() const { return type == CUDA_R_32F ? 4 : 2; }
  [[nodiscard]] float at(std::size_t batch, std::int64_t i, std::int64_t j) const {
    return host[batch * static_cast<std::size_t>(stride) + static_cast<std::size_t>(i + j * ld)];
  }
  /// What the device holds now.
  [[nodiscard]] std::vector<float> fetched() const {
    std::vector<float> values(host.size());
    if (type == CUDA_R_32F) {
      EXPECT_EQ(cudaMemcpy(values.data(), device, values.size() * 4, cudaMemcpyDeviceToHost), cudaSuccess);
      return values;
    }
    std::vector<__nv_bfloat16> small(host.size());
    EXPECT_EQ(cudaMemcpy(small.data(), device, small.size() * 2, cudaMemcpyDeviceToHost), cudaSuccess);
    return {small.begin(), small.end()};
  }

  std::int64_t rows, columns, ld, stride;
  cudaDataType type;
  std::vector<float> host;
  void* device = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
};

struct Case {
  cudaDataType in, out;
  bool transpose_a, transpose_b;
};

class Products : public EmulatedTest, public testing::WithParamInterface<Case> {
 protected:
  static constexpr std::int64_t kM = 21, kN = 10, kK = 37;

  void SetUp() override {
    EmulatedTest::SetUp();
    ASSERT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
    const std::uint64_t bytes = workspace_bytes;
    ASSERT_EQ(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, 8),
              CUBLAS_STATUS_SUCCESS);
    set(CUBLASLT_MATMUL_DESC_TRANSA, GetParam().transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, GetParam().transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  }
  void TearDown() override {
    EXPECT_EQ(cublasLtMatmulPreferenceDestroy(preference), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatmulDescDestroy(desc), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtDestroy(handle), CUBLAS_STATUS_SUCCESS);
    EmulatedTest::TearDown();
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    ASSERT_EQ(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof(value)), CUBLAS_STATUS_SUCCESS);
  }
  void set_epilogue(cublasLtEpilogue_t epilogue) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.device);
    set(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, bias.stride);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux.device);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, aux.ld);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, aux.stride);
  }
  cublasStatus_t find_algorithm() {
    int found = 0;
    const auto status = cublasLtMatmulAlgoGetHeuristic(handle, desc, a.layout, b.layout, d.layout, d.layout, preference,
                                                       1, &result, &found);
    EXPECT_EQ(found, status == CUBLAS_STATUS_SUCCESS ? 1 : 0);
    return status;
  }
  cublasStatus_t multiply() {
    return cublasLtMatmul(handle, desc, &alpha, a.device, a.layout, b.device, b.layout, &beta, d.device, d.layout,
                          d.device, d.layout, &result.algo, workspace.get(), workspace_bytes, nullptr);
  }
  void run(cublasLtEpilogue_t epilogue) {
    set_epilogue(epilogue);
    ASSERT_EQ(find_algorithm(), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  }
  [[nodiscard]] float of_a(std::size_t batch, std::int64_t i, std::int64_t k) const {
    return GetParam().transpose_a ? a.at(batch, k, i) : a.at(batch, i, k);
  }
  [[nodiscard]] float of_b(std::size_t batch, std::int64_t k, std::int64_t j) const {
    return GetParam().transpose_b ? b.at(batch, j, k) : b.at(batch, k, j);
  }
  [[nodiscard]] double product(std::size_t batch, std::int64_t i, std::int64_t j) const {
    double sum = 0.0;
    for (std::int64_t k = 0; k < kK; ++k) sum += double{of_a(batch, i, k)} * of_b(batch, k, j);
    return alpha * sum + double{beta} * d.at(batch, i, j);
  }
  /// Compares an operand with expected(batch, i, j); what lies between its columns must be what it was.
  template <class Expected>
  static void expect_values(const Operand& operand, const Expected& expected) {
    const auto got = operand.fetched();
    const double relative = operand.type == CUDA_R_32F ? 1e-5 : 1.0 / 256;
    for (std::size_t batch = 0; batch < kBatch; ++batch) {
      for (std::int64_t j = 0; j < operand.columns; ++j) {
        for (std::int64_t i = 0; i < operand.ld; ++i) {
          const float value =
              got[batch * static_cast<std::size_t>(operand.stride) + static_cast<std::size_t>(i + j * operand.ld)];
          if (i >= operand.rows) {
            ASSERT_EQ(value, operand.at(batch, i, j)) << "written between the columns";
          } else {
            const double wanted = expected(batch, i, j);
            ASSERT_NEAR(value, wanted, relative * std::max(1.0, std::abs(wanted))) << batch << ' ' << i << ' ' << j;
          }
        }
      }
    }
  }

  const Case one = GetParam();
  Operand a{one.transpose_a ? kK : kM, one.transpose_a ? kM : kK, one.in, 1};
  Operand b{one.transpose_b ? kN : kK, one.transpose_b ? kK : kN, one.in, 2};
  Operand d{kM, kN, one.out, 3}, aux{kM, kN, one.out, 4}, bias{kM, 1, one.out, 5};
  static constexpr std::size_t workspace_bytes = 1 << 16;
  const Buffer<std::byte> workspace{workspace_bytes};
  float alpha = 1.5F, beta = 0.0F;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t result{};
};

// GELU in its tanh form.
double gelu(double u) { return 0.5 * u * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (u + 0.044715 * u * u * u))); }
double gelu_slope(double u) { return (gelu(u + 1e-5) - gelu(u - 1e-5)) / 2e-5; }

TEST_P(Products, Multiply) {
  run(CUBLASLT_EPILOGUE_DEFAULT);
  expect_values(d, [&](std::size_t n, std::int64_t i, std::int64_t j) { return product(n, i, j); });
}

TEST_P(Products, AddToWhatIsThere) {
  beta = 0.5F;
  run(CUBLASLT_EPILOGUE_DEFAULT);
  expect_values(d, [&](std::size_t n, std::int64_t i, std::int64_t j) { return product(n, i, j); });
}

TEST_P(Products, AddABias) {
  run(CUBLASLT_EPILOGUE_BIAS);
  expect_values(d, [&](std::size_t n, std::int64_t i, std::int64_t j) { return product(n, i, j) + bias.at(n, i, 0); });
}

TEST_P(Products, KeepTheInputOfGelu) {
  run(CUBLASLT_EPILOGUE_GELU_AUX);
  expect_values(d, [&](std::size_t n, std::int64_t i, std::int64_t j) { return gelu(product(n, i, j)); });
  expect_values(aux, [&](std::size_t n, std::int64_t i, std::int64_t j) { return product(n, i, j); });
}

TEST_P(Products, KeepTheInputOfGeluBehindABias) {
  run(CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
  const auto u = [&](std::size_t n, std::int64_t i, std::int64_t j) { return product(n, i, j) + bias.at(n, i, 0); };
  expect_values(d, [&](std::size_t n, std::int64_t i, std::int64_t j) { return gelu(u(n, i, j)); });
  expect_values(aux, u);
}

TEST_P(Products, GoBackThroughGelu) {
  run(CUBLASLT_EPILOGUE_DGELU);
  expect_values(
      d, [&](std::size_t n, std::int64_t i, std::int64_t j) { return product(n, i, j) * gelu_slope(aux.at(n, i, j)); });
}

TEST_P(Products, GoBackThroughGeluAndSumForTheBias) {
  run(CUBLASLT_EPILOGUE_DGELU_BGRAD);
  const auto du = [&](std::size_t n, std::int64_t i, std::int64_t j) {
    return product(n, i, j) * gelu_slope(aux.at(n, i, j));
  };
  expect_values(d, du);
  expect_values(bias, [&](std::size_t n, std::int64_t i, std::int64_t) {
    double sum = 0.0;
    for (std::int64_t j = 0; j < kN; ++j) sum += du(n, i, j);
    return sum;
  });
}

TEST_P(Products, SumTheLeftInputForTheBias) {
  run(CUBLASLT_EPILOGUE_BGRADA);
  expect_values(bias, [&](std::size_t n, std::int64_t i, std::int64_t) {
    double sum = 0.0;
    for (std::int64_t k = 0; k < kK; ++k) sum += of_a(n, i, k);
    return sum;
  });
}

TEST_P(Products, SumTheRightInputForTheBias) {
  const Operand sums(kN, 1, GetParam().out, 6);
  set_epilogue(CUBLASLT_EPILOGUE_BGRADB);
  set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, sums.device);
  set(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, sums.stride);
  ASSERT_EQ(find_algorithm(), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  expect_values(d, [&](std::size_t n, std::int64_t i, std::int64_t j) { return product(n, i, j); });
  expect_values(sums, [&](std::size_t n, std::int64_t j, std::int64_t) {
    double sum = 0.0;
    for (std::int64_t k = 0; k < kK; ++k) sum += of_b(n, k, j);
    return sum;
  });
}

TEST_P(Products, AreQueuedWithTheirFactors) {
  set_epilogue(CUBLASLT_EPILOGUE_DEFAULT);
  ASSERT_EQ(find_algorithm(), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  const double wanted = product(0, 0, 0);
  alpha = 100.0F;
  EXPECT_NEAR(d.fetched()[0], wanted, 0.01 * std::max(1.0, std::abs(wanted)));
}

TEST_P(Products, SpoilTheirWorkspace) {
  run(CUBLASLT_EPILOGUE_DEFAULT);
  ASSERT_GT(result.workspaceSize, 0U);
  const std::vector<std::byte> zeros(workspace_bytes);
  ASSERT_EQ(cudaMemcpy(workspace.get(), zeros.data(), workspace_bytes, cudaMemcpyHostToDevice), cudaSuccess);
  ASSERT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  EXPECT_NE(workspace.values()[0], std::byte{0});
}

TEST_P(Products, RefuseAnAlgorithmForAnotherProblem) {
  set_epilogue(CUBLASLT_EPILOGUE_BIAS);
  ASSERT_EQ(find_algorithm(), CUBLAS_STATUS_SUCCESS);
  set_epilogue(CUBLASLT_EPILOGUE_DEFAULT);
  EXPECT_EQ(multiply(), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_P(Products, RefuseMatricesThatDoNotFitTogether) {
  b.set(GetParam().transpose_b ? CUBLASLT_MATRIX_LAYOUT_COLS : CUBLASLT_MATRIX_LAYOUT_ROWS, std::uint64_t{kK - 1});
  EXPECT_EQ(find_algorithm(), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_P(Products, RefuseAnUnalignedMatrixUnlessTheHeuristicKnewOfIt) {
  set_epilogue(CUBLASLT_EPILOGUE_DEFAULT);
  b.set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, b.stride - b.ld);  // leaves room to move it
  ASSERT_EQ(find_algorithm(), CUBLAS_STATUS_SUCCESS);
  void* aligned = b.device;
  b.device = static_cast<std::byte*>(aligned) + 8;
  EXPECT_EQ(multiply(), CUBLAS_STATUS_INVALID_VALUE);
  const std::uint32_t eight = 8;
  ASSERT_EQ(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &eight, 4),
            CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(find_algorithm(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(), CUBLAS_STATUS_SUCCESS);
  b.device = aligned;
}

TEST_P(Products, RefuseMatricesThatLeaveTheirBlock) {
  set_epilogue(CUBLASLT_EPILOGUE_DEFAULT);
  a.set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, a.stride * 2);
  ASSERT_EQ(find_algorithm(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_P(Products, CanBeWithoutFusedEpilogues) {
  simulation().has_fused_epilogues = false;
  set_epilogue(CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
  EXPECT_EQ(find_algorithm(), CUBLAS_STATUS_NOT_SUPPORTED);
  set_epilogue(CUBLASLT_EPILOGUE_DEFAULT);
  EXPECT_EQ(find_algorithm(), CUBLAS_STATUS_SUCCESS);
}

INSTANTIATE_TEST_SUITE_P(Emulated, Products,
                         testing::Values(Case{CUDA_R_32F, CUDA_R_32F, false, false},
                                         Case{CUDA_R_32F, CUDA_R_32F, true, true},
                                         Case{CUDA_R_16BF, CUDA_R_16BF, true, false},
                                         Case{CUDA_R_16BF, CUDA_R_32F, false, true}),
                         [](const auto& named) {
                           const Case& one = named.param;
                           return std::string(one.in == CUDA_R_32F ? "f32" : "bf16") +
                                  (one.out == CUDA_R_32F ? "_f32_" : "_bf16_") + (one.transpose_a ? "t" : "n") +
                                  (one.transpose_b ? "t" : "n");
                         });

}  // namespace
}  // namespace vitrail::emulated
