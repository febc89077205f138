# A rank that hangs, started through mpirun by a script.
if(VITRAIL_MPI)
  add_executable(hanging_rank apps/hanging_rank.cpp)
  target_include_directories(hanging_rank PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(hanging_rank PRIVATE vitrail_apps)
  vitrail_mpirun(launch "{ranks}")
  add_test(NAME apps.hanging_ranks
           COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_hanging_ranks.py $<TARGET_FILE:hanging_rank>
                   ${launch})
  set_tests_properties(apps.hanging_ranks PROPERTIES TIMEOUT 300 LABELS ranks PROCESSORS 2
                       ENVIRONMENT "${ranks_environment}")
endif()
