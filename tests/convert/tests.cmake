# How much memory a conversion takes.
add_executable(flax_memory ${CMAKE_CURRENT_LIST_DIR}/flax_memory.cpp)
target_include_directories(flax_memory PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(flax_memory PRIVATE vitrail_convert)
target_compile_definitions(flax_memory PRIVATE VITRAIL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
add_test(NAME convert.flax_memory COMMAND flax_memory)
set_tests_properties(convert.flax_memory PROPERTIES TIMEOUT 300 LABELS long)
