# Every golden file on both back ends, and altered files that must be noticed.
file(GLOB golden_files CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.h5)
foreach(path IN LISTS golden_files)
  get_filename_component(name ${path} NAME_WE)
  foreach(backend reference cpu)
    add_test(NAME golden.${name}.${backend}
             COMMAND vitrail-selftest golden ${path} --backend ${backend})
    set_tests_properties(golden.${name}.${backend} PROPERTIES TIMEOUT 120 LABELS golden
                         ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=passive")
  endforeach()
endforeach()

add_executable(altered_golden_file ${CMAKE_CURRENT_LIST_DIR}/altered_file.cpp)
target_link_libraries(altered_golden_file PRIVATE vitrail_io)
add_test(NAME golden.alterations_are_noticed
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_altered_files.py
                 $<TARGET_FILE:vitrail-selftest> $<TARGET_FILE:altered_golden_file> ${CMAKE_CURRENT_LIST_DIR})
set_tests_properties(golden.alterations_are_noticed PROPERTIES TIMEOUT 120 LABELS golden)
