# tests/run_on_gpu.sh without a GPU, and with stand-ins for one.
add_test(NAME gpu_script.run_on_gpu COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_LIST_DIR}/test_run_on_gpu.py)
set_tests_properties(gpu_script.run_on_gpu PROPERTIES LABELS jobs TIMEOUT 180)
