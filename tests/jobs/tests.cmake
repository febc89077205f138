# The shell scripts of jobs/, with stand-ins for all that they call.
foreach(script IN ITEMS install_dependencies quickstart)
  add_test(NAME jobs.${script} COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/test_${script}.py)
  set_tests_properties(jobs.${script} PROPERTIES LABELS jobs TIMEOUT 120)
endforeach()
