# The programs as their users meet them, on a dataset of 160 images and a model that trains in a second.
vitrail_mpirun(launch "{ranks}")
file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/test_*.py)
foreach(script IN LISTS scripts)  # PROCESSORS is 1, though they start ranks: they wait most of their time
  get_filename_component(name ${script} NAME_WE)
  string(REPLACE test_ "" name ${name})
  add_test(NAME system.${name} COMMAND ${Python3_EXECUTABLE} ${script} $<TARGET_FILE_DIR:vitrail-train> ${launch})
  set_tests_properties(system.${name} PROPERTIES TIMEOUT 240 LABELS system COST 30
                       ENVIRONMENT "${ranks_environment};PYTHONDONTWRITEBYTECODE=1")
endforeach()

set_tests_properties(system.stopping PROPERTIES TIMEOUT 600)  # many jobs
set_tests_properties(system.cuda PROPERTIES TIMEOUT 600 PROCESSORS 2)  # kernels one thread after the other

# The programs with the emulated GPU in the place of a real one: test equipment, never installed. What defines
# make_cuda_device and the like stands before the archives that say there is none.
if(TARGET vitrail_cuda_emulated)
  foreach(program train eval selftest bench)
    add_executable(vitrail-${program}-emulated ${PROJECT_SOURCE_DIR}/apps/vitrail-${program}.cpp)
    target_link_libraries(vitrail-${program}-emulated PRIVATE vitrail_cuda_emulated vitrail_apps vitrail_train
                          Boost::program_options)
    set_target_properties(vitrail-${program}-emulated PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
  endforeach()
  # 1, 2 and 4 ranks on one emulated GPU: minutes.
  add_test(NAME layouts.on_an_emulated_gpu
           COMMAND vitrail-selftest-emulated layouts --backend cuda --steps 8 --recipes none --small)
  set_tests_properties(layouts.on_an_emulated_gpu PROPERTIES TIMEOUT 900 LABELS "ranks;long" PROCESSORS 2)
endif()
