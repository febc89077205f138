#!/bin/bash
# Fails when a C++ file differs from what .clang-format makes of it.
#
#   tests/check_format.sh          every C++ file that git knows or would add
#   tests/check_format.sh --fix    puts them right instead
set -euo pipefail
cd "$(dirname "$0")/.."

clang_format=${CLANG_FORMAT:-clang-format}
case "${1:-}" in
  "") mode=(--dry-run --Werror) ;;
  --fix) mode=(-i) ;;
  *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac

files=()
while IFS= read -r -d '' file; do
  [ ! -f "$file" ] || files+=("$file")
done < <(git ls-files -z --cached --others --exclude-standard -- '*.cpp' '*.hpp' '*.h' '*.cu' '*.cuh')
if [ ${#files[@]} = 0 ]; then
  echo "format: no C++ files found: run this in a checkout of Vitrail" >&2
  exit 2
fi
if ! "$clang_format" --style=file "${mode[@]}" "${files[@]}"; then
  echo "format: not as .clang-format wants it. Try tests/check_format.sh --fix ($("$clang_format" --version))" >&2
  exit 1
fi
echo "format: ${#files[@]} files as .clang-format wants them"
