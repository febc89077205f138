# The same training on many layouts ends in the same bits: a dozen runs per number of threads.
add_test(NAME layouts.same_bits COMMAND vitrail-selftest layouts)
set_tests_properties(layouts.same_bits PROPERTIES TIMEOUT 600 LABELS ranks PROCESSORS 2)

# Without mpirun it says so, with the exit code of a wrong launch.
add_test(NAME layouts.mpirun_is_missing COMMAND sh -c "$<TARGET_FILE:vitrail-selftest> layouts --mpirun no-such-mpirun; test $? = 2")
set_tests_properties(layouts.mpirun_is_missing PROPERTIES TIMEOUT 60 LABELS ranks)
