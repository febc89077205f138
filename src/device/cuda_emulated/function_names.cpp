// Names of functions from the program's own symbol table: kernels in unnamed namespaces are in no dynamic one.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include "machine.hpp"

namespace vitrail::emulated {
namespace {

/// What the addresses of the program's file were moved by when it was loaded.
std::uintptr_t load_offset() {
  std::uintptr_t offset = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* found) {
        *static_cast<std::uintptr_t*>(found) = info->dlpi_addr;
        return 1;  // the first is the program
      },
      &offset);
  return offset;
}

template <class T>
T at(const std::vector<char>& file, std::size_t offset) {
  T value{};
  if (offset + sizeof(T) <= file.size()) std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

std::string demangled(const char* name) {
  int status = 0;
  char* readable = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string text = status == 0 ? readable : name;
  std::free(readable);
  return text;
}

}  // namespace

std::string name_of_function(const void* function) {
  std::ifstream program("/proc/self/exe", std::ios::binary);
  const std::vector<char> file(std::istreambuf_iterator<char>(program), {});
  const std::uintptr_t wanted = reinterpret_cast<std::uintptr_t>(function) - load_offset();
  const auto header = at<Elf64_Ehdr>(file, 0);
  for (std::size_t s = 0; s < header.e_shnum; ++s) {
    const auto section = at<Elf64_Shdr>(file, header.e_shoff + s * header.e_shentsize);
    if (section.sh_type != SHT_SYMTAB) continue;
    const auto strings = at<Elf64_Shdr>(file, header.e_shoff + section.sh_link * header.e_shentsize);
    for (std::size_t offset = 0; offset < section.sh_size; offset += sizeof(Elf64_Sym)) {
      const auto symbol = at<Elf64_Sym>(file, section.sh_offset + offset);
      if (symbol.st_value != wanted || ELF64_ST_TYPE(symbol.st_info) != STT_FUNC) continue;
      return demangled(file.data() + strings.sh_offset + symbol.st_name);
    }
  }
  std::ostringstream out;
  out << "at " << function;
  return out.str();
}

}  // namespace vitrail::emulated
