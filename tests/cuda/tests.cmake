# The cuda back end on a GPU (tests/run_on_gpu.sh). Where there is none, it is compiled and linked.
if(VITRAIL_CUDA)
  file(GLOB gpu_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/test_*.cpp)
  list(FILTER gpu_tests EXCLUDE REGEX "_emulated\\.cpp$")
  add_executable(test_cuda ${gpu_tests} $<TARGET_OBJECTS:test_ops>)
  target_include_directories(test_cuda PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(test_cuda PRIVATE vitrail_ops GTest::gtest_main)
  target_compile_definitions(test_cuda PRIVATE VITRAIL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME cuda.on_a_gpu COMMAND test_cuda "--gtest_filter=*Cuda*")
  set_tests_properties(cuda.on_a_gpu PROPERTIES TIMEOUT 600 LABELS gpu)
endif()

# The cuda back end under the emulation: the verb cases are those of tests/ops, already compiled for test_ops.
if(TARGET vitrail_cuda_emulated)
  file(GLOB cuda_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/test_*.cpp)
  add_executable(test_cuda_emulated ${cuda_tests} $<TARGET_OBJECTS:test_ops>)
  target_include_directories(test_cuda_emulated PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(test_cuda_emulated PRIVATE vitrail_cuda_emulated vitrail_ops GTest::gtest_main)
  target_compile_definitions(test_cuda_emulated PRIVATE VITRAIL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  gtest_discover_tests(test_cuda_emulated TEST_PREFIX cuda_emulated. TEST_FILTER "*Cuda*" DISCOVERY_TIMEOUT 60
                       PROPERTIES TIMEOUT 300 LABELS unit ENVIRONMENT ASAN_OPTIONS=allocator_may_return_null=1)
endif()
