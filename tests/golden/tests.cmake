# Every golden file on both back ends, models in bf16 as well, and altered files that must be noticed.
file(GLOB golden_files CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.h5 ${CMAKE_CURRENT_LIST_DIR}/second/*.h5)
foreach(path IN LISTS golden_files)
  get_filename_component(name ${path} NAME_WE)
  foreach(backend reference cpu)
    add_test(NAME golden.${name}.${backend}
             COMMAND vitrail-selftest golden ${path} --backend ${backend})
    set_tests_properties(golden.${name}.${backend} PROPERTIES TIMEOUT 120 LABELS golden
                         ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=passive")
  endforeach()
  if(name MATCHES "^model_")
    add_test(NAME golden.${name}.cpu_bf16
             COMMAND vitrail-selftest golden ${path} --backend cpu --precision bf16)
    set_tests_properties(golden.${name}.cpu_bf16 PROPERTIES TIMEOUT 120 LABELS golden
                         ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=passive")
  endif()
endforeach()

add_executable(altered_golden_file ${CMAKE_CURRENT_LIST_DIR}/altered_file.cpp)
target_link_libraries(altered_golden_file PRIVATE vitrail_io)
add_test(NAME golden.alterations_are_noticed
         COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_altered_files.py
                 $<TARGET_FILE:vitrail-selftest> $<TARGET_FILE:altered_golden_file> ${CMAKE_CURRENT_LIST_DIR})
set_tests_properties(golden.alterations_are_noticed PROPERTIES TIMEOUT 120 LABELS golden)
