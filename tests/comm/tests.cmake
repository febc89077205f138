# Ways to fail, started through mpirun by a script.
add_executable(failing_rank comm/failing_rank.cpp)
target_link_libraries(failing_rank PRIVATE vitrail_comm)

vitrail_mpirun(launch "{ranks}")  # none in a build without MPI: then the tests of one rank alone
add_test(NAME comm.failing_ranks
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_failing_ranks.py $<TARGET_FILE:failing_rank>
                 ${launch})
set_tests_properties(comm.failing_ranks PROPERTIES TIMEOUT 300 LABELS ranks PROCESSORS 2
                     ENVIRONMENT "${ranks_environment}")

# What tests/comm/kinds.hpp may try: limits per MPI call, device memory with a GPU or the emulation of one, and NCCL.
if(VITRAIL_MPI)
  target_compile_definitions(ranks_comm PRIVATE VITRAIL_TEST_MPI)
endif()
if(TARGET vitrail_cuda_emulated)
  target_link_libraries(ranks_comm PRIVATE vitrail_cuda_emulated)
  target_compile_definitions(ranks_comm PRIVATE VITRAIL_TEST_DEVICE)
elseif(VITRAIL_CUDA)
  target_compile_definitions(ranks_comm PRIVATE VITRAIL_TEST_DEVICE VITRAIL_TEST_NCCL)
  get_directory_property(tests_on_ranks TESTS)
  list(FILTER tests_on_ranks INCLUDE REGEX "^comm\\.on_")
  if(vitrail_gpu)
    set_property(TEST ${tests_on_ranks} APPEND PROPERTY LABELS gpu)
  else()  # all is built, and what needs no GPU is run
    set_property(TEST ${tests_on_ranks} APPEND PROPERTY ENVIRONMENT "GTEST_FILTER=-*Staged*:*OnDeviceMemory*:*Nccl*")
  endif()
endif()
