# Ways to fail, started through mpirun by a script.
add_executable(failing_rank comm/failing_rank.cpp)
target_link_libraries(failing_rank PRIVATE vitrail_comm)

# In a build without MPI: the tests of one rank.
if(VITRAIL_MPI)
  vitrail_mpirun(launch "{ranks}")
else()
  set(launch)
endif()
add_test(NAME comm.failing_ranks
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_failing_ranks.py $<TARGET_FILE:failing_rank>
                 ${launch})
set_tests_properties(comm.failing_ranks PROPERTIES TIMEOUT 300 LABELS ranks PROCESSORS 2
                     ENVIRONMENT "${ranks_environment}")

# Device memory: with a GPU, or the emulation of one.
if(TARGET ranks_comm AND TARGET vitrail_cuda_emulated)
  target_link_libraries(ranks_comm PRIVATE vitrail_cuda_emulated)
  target_compile_definitions(ranks_comm PRIVATE VITRAIL_TEST_DEVICE)
elseif(TARGET ranks_comm AND vitrail_gpu)
  target_compile_definitions(ranks_comm PRIVATE VITRAIL_TEST_DEVICE VITRAIL_TEST_NCCL)
endif()
