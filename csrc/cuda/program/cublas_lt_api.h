// The part of cuBLASLt that layers use, by address: nothing of it is needed to build, and of what torch ships the
// library that is in the process already is taken (cublas_lt_library.cpp). Names and values as in NVIDIA's cublasLt.h,
// cublas_api.h and library_types.h of 13.0.0; they have been the same since 11.0.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace tqs::cuda::lt {

using Handle = struct OpaqueHandle*;
using Operation = struct OpaqueOperation*;    // cublasLtMatmulDesc_t
using Layout = struct OpaqueLayout*;          // cublasLtMatrixLayout_t: column-major
using Preference = struct OpaquePreference*;  // cublasLtMatmulPreference_t

enum Status : int { kSuccess = 0, kNotSupported = 15 };
enum Type : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBfloat16 = 14 };
// Exactly (_PEDANTIC): by standard arithmetic, of which no environment variable makes tf32 (NVIDIA_TF32_OVERRIDE) or
// products of bfloat16.
enum Compute : int { kIn32 = 68, kExactlyIn32 = 69, kInTf32 = 77, kIn64 = 70 };
enum Transposition : std::int32_t { kAsItIs = 0, kTransposed = 1 };
enum Epilogue : std::uint32_t { kNothing = 1, kBias = 4 };
enum OperationAttribute : int { kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBiasPointer = 8 };
enum PreferenceAttribute : int {
    kMostWorkspace = 1,     // std::uint64_t
    kReductionSchemes = 3,  // std::uint32_t, a mask; and std::uint32_t each:
    kAlignmentA = 5,
    kAlignmentB = 6,
    kAlignmentC = 7,
    kAlignmentD = 8
};
enum ReductionScheme : std::uint32_t { kPartsAsComputed = 2 };  // parts of K meet in the type of the sums

struct Algorithm {
    std::uint64_t data[8];
};
struct Heuristic {
    Algorithm algorithm;
    std::size_t workspace;
    int status;
    float waves;
    int reserved[4];
};

struct Api {
    int (*create)(Handle*);
    int (*destroy)(Handle);
    int (*operation_create)(Operation*, Compute, Type scale);
    int (*operation_destroy)(Operation);
    int (*operation_set)(Operation, OperationAttribute, const void* value, std::size_t bytes);
    int (*layout_create)(Layout*, Type, std::uint64_t rows, std::uint64_t columns, std::int64_t leading);
    int (*layout_destroy)(Layout);
    int (*preference_create)(Preference*);
    int (*preference_destroy)(Preference);
    int (*preference_set)(Preference, PreferenceAttribute, const void* value, std::size_t bytes);
    int (*heuristic)(Handle, Operation, Layout a, Layout b, Layout c, Layout d, Preference, int wanted, Heuristic*,
                     int* found);
    // d = alpha op(a) op(b) + beta c
    int (*matmul)(Handle, Operation, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta,
                  const void* c, Layout, void* d, Layout, const Algorithm*, void* workspace, std::size_t bytes,
                  cudaStream_t);
};

struct Library {
    Api api;
    std::string path;
};

// The library, null where there is none.
const Library* find_library();

}  // namespace tqs::cuda::lt
