#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/runtime.cuh"

namespace shoal::cuda {

namespace {

// What NVIDIA advises for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// Sizes whose algorithm is remembered; then all are forgotten.
constexpr size_t kChoicesMax = 4096;

#define SHOAL_BLAS_TRY(expression)                      \
  if (const cublasStatus_t shoal_status = (expression); \
      shoal_status != CUBLAS_STATUS_SUCCESS) {          \
    return kBlasError + static_cast<int>(shoal_status); \
  }

uint32_t AlignmentOf(const float* data) {
  constexpr int kBitsMax = 8;  // 256 bytes
  const int bits = std::countr_zero(reinterpret_cast<uintptr_t>(data));
  return uint32_t{1} << std::min(bits, kBitsMax);
}

cublasLtEpilogue_t EpilogueOf(const Product& p) {
  return p.bias == nullptr ? CUBLASLT_EPILOGUE_DEFAULT
         : p.relu          ? CUBLASLT_EPILOGUE_RELU_BIAS
                           : CUBLASLT_EPILOGUE_BIAS;
}

// Everything that the choice of an algorithm depends on.
auto KeyOf(const Product& p) {
  return std::make_tuple(p.m, p.n, p.k, p.transpose_a, p.transpose_b,
                         AlignmentOf(p.a), AlignmentOf(p.b), AlignmentOf(p.c),
                         EpilogueOf(p));
}

}  // namespace

struct Blas {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<decltype(KeyOf(Product{})), cublasLtMatmulAlgo_t> choices;
};

namespace {

// cuBLASLt stores by columns, in which a row-major matrix is its transpose: so
// it is asked for c^T = op(b)^T op(a)^T.
struct Problem {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t left;
  cublasLtMatrixLayoutOpaque_t right;
  cublasLtMatrixLayoutOpaque_t result;
};

int Describe(const Product& p, Problem& problem) {
  SHOAL_BLAS_TRY(cublasLtMatmulDescInit(&problem.operation, CUBLAS_COMPUTE_32F,
                                        CUDA_R_32F));
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute,
                       bool transpose) {
    const cublasOperation_t value = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
    return cublasLtMatmulDescSetAttribute(&problem.operation, attribute, &value,
                                          sizeof(value));
  };
  SHOAL_BLAS_TRY(set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b));
  SHOAL_BLAS_TRY(set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a));
  if (p.bias != nullptr) {
    // Of the columns' order, so an element for each row of the transpose.
    const cublasLtEpilogue_t epilogue = EpilogueOf(p);
    SHOAL_BLAS_TRY(cublasLtMatmulDescSetAttribute(&problem.operation,
                                                  CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                  &epilogue, sizeof(epilogue)));
    SHOAL_BLAS_TRY(cublasLtMatmulDescSetAttribute(
        &problem.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias,
        sizeof(p.bias)));
  }
  const auto layout = [](cublasLtMatrixLayoutOpaque_t* matrix, int64_t rows,
                         int64_t columns) {
    return cublasLtMatrixLayoutInit(matrix, CUDA_R_32F,
                                    static_cast<uint64_t>(columns),
                                    static_cast<uint64_t>(rows), columns);
  };
  SHOAL_BLAS_TRY(p.transpose_b ? layout(&problem.left, p.n, p.k)
                               : layout(&problem.left, p.k, p.n));
  SHOAL_BLAS_TRY(p.transpose_a ? layout(&problem.right, p.k, p.m)
                               : layout(&problem.right, p.m, p.k));
  SHOAL_BLAS_TRY(layout(&problem.result, p.m, p.n));
  return 0;
}

int Choose(cublasLtHandle_t handle, const Product& p, Problem& problem,
           cublasLtMatmulAlgo_t* algorithm) {
  cublasLtMatmulPreferenceOpaque_t preference;
  SHOAL_BLAS_TRY(cublasLtMatmulPreferenceInit(&preference));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute,
                       const auto& value) {
    return cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value,
                                                sizeof(value));
  };
  SHOAL_BLAS_TRY(
      set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes));
  SHOAL_BLAS_TRY(
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, AlignmentOf(p.b)));
  SHOAL_BLAS_TRY(
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(p.a)));
  SHOAL_BLAS_TRY(
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, AlignmentOf(p.c)));
  SHOAL_BLAS_TRY(
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, AlignmentOf(p.c)));
  cublasLtMatmulHeuristicResult_t found;
  int num_found = 0;
  SHOAL_BLAS_TRY(cublasLtMatmulAlgoGetHeuristic(
      handle, &problem.operation, &problem.left, &problem.right,
      &problem.result, &problem.result, &preference, 1, &found, &num_found));
  if (num_found == 0) {
    return kBlasError + static_cast<int>(CUBLAS_STATUS_NOT_SUPPORTED);
  }
  *algorithm = found.algo;
  return 0;
}

}  // namespace

int CreateBlas(Blas** blas) {
  auto made = std::make_unique<Blas>();
  SHOAL_CUDA_TRY(cudaMalloc(&made->workspace, kWorkspaceBytes));
  if (const cublasStatus_t status = cublasLtCreate(&made->handle);
      status != CUBLAS_STATUS_SUCCESS) {
    cudaFree(made->workspace);
    return kBlasError + static_cast<int>(status);
  }
  *blas = made.release();
  return 0;
}

void DestroyBlas(Blas* blas) {
  if (blas != nullptr) {
    cublasLtDestroy(blas->handle);
    cudaFree(blas->workspace);
    delete blas;
  }
}

int Multiply(Blas& blas, CUstream_st* stream, const Product& product) {
  Problem problem;
  SHOAL_CUDA_TRY(Describe(product, problem));
  const auto key = KeyOf(product);
  auto choice = blas.choices.find(key);
  if (choice == blas.choices.end()) {
    cublasLtMatmulAlgo_t algorithm;
    SHOAL_CUDA_TRY(Choose(blas.handle, product, problem, &algorithm));
    if (blas.choices.size() >= kChoicesMax) {
      blas.choices.clear();
    }
    choice = blas.choices.emplace(key, algorithm).first;
  }
  const float one = 1.0F;
  const float zero = 0.0F;
  SHOAL_BLAS_TRY(
      cublasLtMatmul(blas.handle, &problem.operation, &one, product.b,
                     &problem.left, product.a, &problem.right, &zero, product.c,
                     &problem.result, product.c, &problem.result,
                     &choice->second, blas.workspace, kWorkspaceBytes, stream));
  return 0;
}

const char* BlasErrorText(int status) {
  return cublasLtGetStatusString(static_cast<cublasStatus_t>(status));
}

}  // namespace shoal::cuda
