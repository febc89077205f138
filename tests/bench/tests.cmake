# vitrail-bench as its users meet it: every command on one and two ranks, and bad options.
vitrail_mpirun(launch "{ranks}")
add_test(NAME bench.program
         COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/check_bench.py $<TARGET_FILE:vitrail-bench> ${launch})
set_tests_properties(bench.program PROPERTIES TIMEOUT 300 LABELS system PROCESSORS 2
                     ENVIRONMENT "${ranks_environment}")
