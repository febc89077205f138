# The building stands as src/FLOORS plans it, and the checker sees every kind of fault.
add_test(NAME floors.includes COMMAND ${Python3_EXECUTABLE} -B ${PROJECT_SOURCE_DIR}/tests/check_floors.py)
add_test(NAME floors.checker COMMAND ${Python3_EXECUTABLE} -B ${PROJECT_SOURCE_DIR}/tests/floors/test_check_floors.py)
set_tests_properties(floors.includes floors.checker PROPERTIES LABELS floors TIMEOUT 60)
