# The emulation's own tests, with kernels of their own.
if(TARGET vitrail_cuda_emulated)
  file(GLOB emulated_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/emulated/test_*.cpp)
  file(GLOB emulated_kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/emulated/*.cu)
  vitrail_test_program(test_emulated ${emulated_tests})
  vitrail_emulate(test_emulated ${emulated_kernels})
  target_link_libraries(test_emulated PRIVATE vitrail_cuda_emulated vitrail_device GTest::gtest_main)
  vitrail_unit_tests(test_emulated emulated "*")
  if(CMAKE_GENERATOR STREQUAL "Ninja")
    add_test(NAME emulated.sees_no_header_of_the_toolkit
             COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_SOURCE_DIR}/emulated/check_no_toolkit.py
             ${PROJECT_BINARY_DIR})
    set_tests_properties(emulated.sees_no_header_of_the_toolkit PROPERTIES TIMEOUT 60 LABELS unit)
  endif()
endif()
