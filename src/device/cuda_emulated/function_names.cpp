// Names of functions from the program's own symbol table: kernels in unnamed namespaces are in no dynamic one.

#include <cstdint>
#include <cstdlib>
#include <fstream>
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

/// `count` entries of the program's file from an offset on; the file is large and not read as a whole.
template <class T>
std::vector<T> read(std::ifstream& file, std::size_t offset, std::size_t count) {
  std::vector<T> values(count);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
  return file ? values : std::vector<T>();
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
  const std::uintptr_t wanted = reinterpret_cast<std::uintptr_t>(function) - load_offset();
  for (const auto& header : read<Elf64_Ehdr>(program, 0, 1)) {
    const auto sections = read<Elf64_Shdr>(program, header.e_shoff, header.e_shnum);
    for (const Elf64_Shdr& section : sections) {
      if (section.sh_type != SHT_SYMTAB) continue;
      for (const auto& symbol : read<Elf64_Sym>(program, section.sh_offset, section.sh_size / sizeof(Elf64_Sym))) {
        if (symbol.st_value != wanted || ELF64_ST_TYPE(symbol.st_info) != STT_FUNC) continue;
        const Elf64_Shdr& strings = sections[section.sh_link];
        auto name = read<char>(program, strings.sh_offset + symbol.st_name, strings.sh_size - symbol.st_name);
        name.push_back('\0');
        return demangled(name.data());
      }
    }
  }
  std::ostringstream out;
  out << "at " << function;
  return out.str();
}

}  // namespace vitrail::emulated
