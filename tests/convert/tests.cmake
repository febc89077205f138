# Files of other software in both directions: Python writes and this program reads, and the other way round.
add_executable(tensor_file ${CMAKE_CURRENT_LIST_DIR}/tensor_file.cpp)
target_link_libraries(tensor_file PRIVATE vitrail_convert)
add_test(NAME convert.python_reads_and_writes
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_python_reads.py $<TARGET_FILE:tensor_file>)
set_tests_properties(convert.python_reads_and_writes PROPERTIES TIMEOUT 120 LABELS unit)
add_test(NAME convert.python_reads_more_than_4_gib
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_python_reads.py $<TARGET_FILE:tensor_file> --large)
set_tests_properties(convert.python_reads_more_than_4_gib PROPERTIES TIMEOUT 600 LABELS long)
