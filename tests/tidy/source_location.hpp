#pragma once
// Only for clang-tidy (tests/check_tidy.py puts it before every file): clang below 16 has no
// __builtin_source_location, so libstdc++ leaves std::source_location out, and nothing of ours would parse.

#if defined(__clang__) && __clang_major__ < 16

#include <cstdint>

#define _GLIBCXX_SRCLOC 1
namespace std {
struct source_location {
  static constexpr source_location current(uint_least32_t line = __builtin_LINE(),
                                           uint_least32_t column = __builtin_COLUMN(),
                                           const char* file = __builtin_FILE(),
                                           const char* function = __builtin_FUNCTION()) noexcept {
    source_location here;
    here.line_ = line;
    here.column_ = column;
    here.file_ = file;
    here.function_ = function;
    return here;
  }
  constexpr uint_least32_t line() const noexcept { return line_; }
  constexpr uint_least32_t column() const noexcept { return column_; }
  constexpr const char* file_name() const noexcept { return file_; }
  constexpr const char* function_name() const noexcept { return function_; }

 private:
  uint_least32_t line_ = 0;
  uint_least32_t column_ = 0;
  const char* file_ = "";
  const char* function_ = "";
};
}  // namespace std

#endif
