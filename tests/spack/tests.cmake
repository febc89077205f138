# Spack's recipe, run with stand-ins for Spack and compared with CMakeLists.txt.
add_test(NAME spack.recipe COMMAND ${Python3_EXECUTABLE} -B ${PROJECT_SOURCE_DIR}/tests/spack/test_recipe.py)
set_tests_properties(spack.recipe PROPERTIES LABELS package TIMEOUT 60)
