# cmake -DSOURCE=DIR -DOUTPUT=FILE -P git_commit.cmake: writes the source of git_commit() (apps/build_facts.hpp), anew only
# when the answer has changed, so that a commit compiles one small file.
set(commit "unknown")
find_program(git NAMES git)
if(git AND EXISTS ${SOURCE}/.git)
  execute_process(COMMAND ${git} -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
                  OUTPUT_VARIABLE said RESULT_VARIABLE failed ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT failed AND said MATCHES "^[0-9a-f]+(-dirty)?$")
    set(commit ${said})
  endif()
endif()
set(source "#include \"apps/build_facts.hpp\"\n\nnamespace vitrail {\nstd::string git_commit() { return \"${commit}\"; }\n}\n")
set(before "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} before)
endif()
if(NOT source STREQUAL before)
  file(WRITE ${OUTPUT} "${source}")
endif()
