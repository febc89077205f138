# The CPU emulation of the CUDA toolkit (README.md here), and with it the CUDA back end as the tests run it: test
# equipment, never installed.
#
# vitrail_cuda_emulated   OBJECT library: the emulation, and every .cu and .cpp of device/cuda and ops/cuda. Its
#                         make_cuda_device and make_cuda_ops win over those of no_cuda.cpp, which lie in archives.
# vitrail_emulate(TARGET FILE.cu...)  adds .cu files to a target: each through a generated x.emulated.cpp.
find_package(Boost QUIET OPTIONAL_COMPONENTS context)
if(NOT TARGET Boost::context)
  message(STATUS "No Boost.Context: the CUDA back end is not tested by emulation")
  return()
endif()

set(emulation ${PROJECT_SOURCE_DIR}/src/device/cuda_emulated)

# Our headers come first: with the toolkit's names they stand for the toolkit, which is nowhere on the path.
add_library(vitrail_cuda_emulation_options INTERFACE)
target_include_directories(vitrail_cuda_emulation_options BEFORE INTERFACE ${emulation})
target_link_libraries(vitrail_cuda_emulation_options INTERFACE vitrail_options)
target_compile_options(vitrail_cuda_emulation_options INTERFACE -Wno-unknown-pragmas)

function(vitrail_emulate target)
  foreach(source IN LISTS ARGN)
    file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR} ${source})
    set(wrapper ${PROJECT_BINARY_DIR}/emulated/${name}.emulated.cpp)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n" @ONLY)
    target_sources(${target} PRIVATE ${wrapper})
  endforeach()
endfunction()

# Kernels count in 32 bits where they may, so clang-tidy is not to warn of what widens behind a multiplication.
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/emulated/.clang-tidy @ONLY CONTENT "InheritParentConfig: true
Checks: '-bugprone-implicit-widening-of-multiplication-result,-bugprone-misplaced-widening-cast'
")

file(GLOB emulation_sources CONFIGURE_DEPENDS ${emulation}/*.cpp)
file(GLOB back_end_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/device/cuda/*.cpp
     ${PROJECT_SOURCE_DIR}/src/ops/cuda/*.cpp)
list(FILTER back_end_sources EXCLUDE REGEX "/no_cuda\\.cpp$")
file(GLOB kernel_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/device/cuda/*.cu
     ${PROJECT_SOURCE_DIR}/src/ops/cuda/*.cu)

add_library(vitrail_cuda_emulated OBJECT ${emulation_sources} ${back_end_sources})
vitrail_emulate(vitrail_cuda_emulated ${kernel_sources})
target_link_libraries(vitrail_cuda_emulated PUBLIC vitrail_cuda_emulation_options Boost::context)
# The product checks its operands' bounds before it runs, and whole models run over it.
set_source_files_properties(${emulation}/plain_product.cpp PROPERTIES COMPILE_OPTIONS "-O3;-Wno-psabi;-fno-sanitize=all")
