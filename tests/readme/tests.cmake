# What README.md promises is acted on, with the programs of this build.
set(check_readme ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/check_readme.py)
add_test(NAME readme.checker COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/test_check_readme.py)
add_test(NAME readme.facts COMMAND ${check_readme} facts)
add_test(NAME readme.site COMMAND ${check_readme} site --programs ${PROJECT_BINARY_DIR})
add_test(NAME readme.run COMMAND ${check_readme} run --programs ${PROJECT_BINARY_DIR})
set_tests_properties(readme.checker readme.facts readme.site PROPERTIES LABELS readme TIMEOUT 120)
set_tests_properties(readme.run PROPERTIES LABELS readme TIMEOUT 900 PROCESSORS 2)
