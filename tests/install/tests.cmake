# What is installed runs from wherever it is moved to.
add_test(NAME install.relocatable
         COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/check_install.py ${PROJECT_BINARY_DIR})
set_tests_properties(install.relocatable PROPERTIES LABELS package TIMEOUT 120)
