# Real training on real images: a short one always, the whole recipe with three seeds among the long tests.
vitrail_mpirun(launch "{ranks}")
set(check_accuracy ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/check_accuracy.py $<TARGET_FILE_DIR:vitrail-train>)
add_test(NAME learning.half_an_epoch COMMAND ${check_accuracy} 0.5 75 0 -- ${launch})
set_tests_properties(learning.half_an_epoch PROPERTIES TIMEOUT 300 LABELS system PROCESSORS 2
                     ENVIRONMENT "${ranks_environment}")
add_test(NAME learning.whole_recipe COMMAND ${check_accuracy} 8 88.0 0 1 2 -- ${launch})
set_tests_properties(learning.whole_recipe PROPERTIES TIMEOUT 3600 LABELS long PROCESSORS 2
                     ENVIRONMENT "${ranks_environment}")
