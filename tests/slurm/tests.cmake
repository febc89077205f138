# The job scripts on a real Slurm that lives on this machine for as long as a test does. One of them at a time, for a
# Slurm with a shared network is alone; mostly they wait, so others run beside. COST: begun first, they take minutes.
execute_process(COMMAND ${CMAKE_CURRENT_LIST_DIR}/start_slurm.sh --can OUTPUT_VARIABLE slurm_said
                OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE no_slurm)
if(no_slurm)
  message(STATUS "Tests with label slurm are not registered: ${slurm_said}")
else()
  file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/test_*.py)
  foreach(script IN LISTS scripts)
    get_filename_component(name ${script} NAME_WE)
    string(REPLACE test_ "" name ${name})
    add_test(NAME slurm.${name} COMMAND ${Python3_EXECUTABLE} -B ${script} $<TARGET_FILE_DIR:vitrail-train>)
    set_tests_properties(slurm.${name} PROPERTIES TIMEOUT 600 LABELS slurm RESOURCE_LOCK slurm COST 300
                         ENVIRONMENT "${ranks_environment}")
  endforeach()
endif()
