# vitrail-plan as its users meet it.
add_test(NAME plan.program
         COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/check_plan.py $<TARGET_FILE:vitrail-plan>)
set_tests_properties(plan.program PROPERTIES TIMEOUT 60 LABELS system)
