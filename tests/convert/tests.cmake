# Files of other software in both directions: Python writes and this program reads, and the other way round.
add_executable(tensor_file ${CMAKE_CURRENT_LIST_DIR}/tensor_file.cpp)
target_link_libraries(tensor_file PRIVATE vitrail_convert)
add_test(NAME convert.python_reads_and_writes
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_python_reads.py $<TARGET_FILE:tensor_file>)
set_tests_properties(convert.python_reads_and_writes PROPERTIES TIMEOUT 120 LABELS system)
add_test(NAME convert.python_reads_more_than_4_gib
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_python_reads.py $<TARGET_FILE:tensor_file> --large)
set_tests_properties(convert.python_reads_more_than_4_gib PROPERTIES TIMEOUT 600 LABELS long)
# How much memory a conversion takes.
add_executable(flax_memory ${CMAKE_CURRENT_LIST_DIR}/flax_memory.cpp)
target_include_directories(flax_memory PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(flax_memory PRIVATE vitrail_convert)
target_compile_definitions(flax_memory PRIVATE VITRAIL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
add_test(NAME convert.flax_memory COMMAND flax_memory)
set_tests_properties(convert.flax_memory PROPERTIES TIMEOUT 300 LABELS long)
# A model of 0.5 GB whose largest tensor has 33 MB: neither may be in memory as a whole.
add_test(NAME convert.models_are_streamed
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_memory.py $<TARGET_FILE:vitrail-checkpoint>
                 --gigabytes 0.5 --limit-mib 150)
set_tests_properties(convert.models_are_streamed PROPERTIES TIMEOUT 300 LABELS long)
