# The cuda back end on a GPU (also tests/run_on_gpu.sh). Where there is none, it is compiled and linked, not registered.
if(VITRAIL_CUDA)
  file(GLOB gpu_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/test_*.cpp)
  list(FILTER gpu_tests EXCLUDE REGEX "_emulated\\.cpp$")
  vitrail_test_program(test_cuda ${gpu_tests} $<TARGET_OBJECTS:test_ops>)
  target_link_libraries(test_cuda PRIVATE vitrail_train GTest::gtest_main)
  if(vitrail_gpu)
    add_test(NAME cuda.on_a_gpu COMMAND test_cuda "--gtest_filter=*Cuda*")
    set_tests_properties(cuda.on_a_gpu PROPERTIES TIMEOUT 600 LABELS gpu)
  endif()
endif()

# The cuda back end under the emulation: the verb cases are those of tests/ops, already compiled for test_ops.
if(TARGET vitrail_cuda_emulated)
  file(GLOB cuda_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/test_*.cpp)
  vitrail_test_program(test_cuda_emulated ${cuda_tests} $<TARGET_OBJECTS:test_ops>)
  target_link_libraries(test_cuda_emulated PRIVATE vitrail_cuda_emulated vitrail_train GTest::gtest_main)
  vitrail_unit_tests(test_cuda_emulated cuda_emulated "*Cuda*")
endif()
