# What builds with VITRAIL_CUDA need: nvcc, the runtime, cuBLASLt and NCCL.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90 100)
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.4 REQUIRED)
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)
add_library(vitrail_cuda INTERFACE)
target_include_directories(vitrail_cuda INTERFACE ${PROJECT_SOURCE_DIR}/src/device/cuda/intrinsics)
target_link_libraries(vitrail_cuda INTERFACE CUDA::cudart)
add_library(vitrail_nccl INTERFACE)
target_include_directories(vitrail_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
target_link_libraries(vitrail_nccl INTERFACE ${NCCL_LIBRARY})

# CMake 3.25 knows no C++20 for nvcc; nvcc does.
set(CMAKE_CUDA_STANDARD_REQUIRED OFF)
add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)

# --fmad=false: a*b+c is two roundings unless written as fma, as everywhere.
set(vitrail_cuda_options --expt-relaxed-constexpr --fmad=false -Xcompiler=-Wall,-Wextra,-Wconversion,-Wshadow
    -Xcompiler=-ffp-contract=off)
if(VITRAIL_WERROR)
  list(APPEND vitrail_cuda_options -Werror=all-warnings -Xcompiler=-Werror)
endif()
