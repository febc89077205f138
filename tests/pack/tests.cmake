# vitrail-pack as its users meet it: real Fashion-MNIST where it is installed, and every kind of bad input.
add_test(NAME pack.program
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_pack.py $<TARGET_FILE:vitrail-pack>)
set_tests_properties(pack.program PROPERTIES TIMEOUT 300 LABELS system)
