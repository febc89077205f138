# The emulation's own tests, with kernels of their own.
if(TARGET vitrail_cuda_emulated)
  file(GLOB emulated_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/emulated/test_*.cpp)
  file(GLOB emulated_kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/emulated/*.cu)
  add_executable(test_emulated ${emulated_tests})
  vitrail_emulate(test_emulated ${emulated_kernels})
  target_include_directories(test_emulated PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(test_emulated PRIVATE vitrail_cuda_emulated vitrail_device GTest::gtest_main)
  target_compile_definitions(test_emulated PRIVATE VITRAIL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  gtest_discover_tests(test_emulated TEST_PREFIX emulated. DISCOVERY_TIMEOUT 60
                       PROPERTIES TIMEOUT 300 LABELS unit ENVIRONMENT ASAN_OPTIONS=allocator_may_return_null=1)
  if(CMAKE_GENERATOR STREQUAL "Ninja")
    add_test(NAME emulated.sees_no_header_of_the_toolkit
             COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_SOURCE_DIR}/emulated/check_no_toolkit.py
             ${PROJECT_BINARY_DIR})
    set_tests_properties(emulated.sees_no_header_of_the_toolkit PROPERTIES TIMEOUT 60 LABELS unit)
  endif()
endif()
