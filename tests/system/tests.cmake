# The programs as their users meet them, on a dataset of 160 images and a model that trains in a second.
vitrail_mpirun(launch "{ranks}")
file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/test_*.py)
foreach(script IN LISTS scripts)
  get_filename_component(name ${script} NAME_WE)
  string(REPLACE test_ "" name ${name})
  add_test(NAME system.${name} COMMAND ${Python3_EXECUTABLE} ${script} $<TARGET_FILE_DIR:vitrail-train> ${launch})
  set_tests_properties(system.${name} PROPERTIES TIMEOUT 240 LABELS system PROCESSORS 2
                       ENVIRONMENT "${ranks_environment};PYTHONDONTWRITEBYTECODE=1")
endforeach()
