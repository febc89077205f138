// Shows what is in a .npz or .safetensors file, and copies one to the other format, for check_python_reads.py.
//
//   tensor_file show FILE          a line "NAME DTYPE LENGTHS SHA256" for every tensor, in the order of the file
//   tensor_file copy FROM TO [N]   in stretches of N elements
//   tensor_file large TO           a .npz of one u8 tensor of more than 4 GiB: byte i is i % 251

#include <algorithm>
#include <iostream>
#include <numeric>

#include "base/error.hpp"
#include "base/sha256.hpp"
#include "convert/npz.hpp"
#include "convert/safetensors.hpp"

namespace {

using namespace vitrail;

std::unique_ptr<TensorSource> open_any(const std::filesystem::path& path) {
  return path.extension() == ".npz" ? open_npz(path) : open_safetensors(path);
}

void show(const std::filesystem::path& path) {
  const auto source = open_any(path);
  for (const TensorInfo& tensor : source->tensors()) {
    std::string bytes(static_cast<std::size_t>(tensor.shape.elements() * size_of(tensor.dtype)), '\0');
    source->read(tensor.name, 0, {bytes.data(), tensor.shape, tensor.dtype});
    std::cout << tensor.name << ' ' << name_of(tensor.dtype) << ' ' << tensor.shape.str() << ' ' << sha256_of(bytes)
              << '\n';
  }
}

void copy_tensors(const std::filesystem::path& from, const std::filesystem::path& to, std::int64_t most) {
  const auto source = open_any(from);
  std::vector<TensorInfo> tensors(source->tensors().begin(), source->tensors().end());
  const auto sink =
      to.extension() == ".npz" ? create_npz(to, tensors) : create_safetensors(to, tensors, {{"format", "pt"}}, 100000);
  std::string bytes(static_cast<std::size_t>(most * 8), '\0');
  for (const TensorInfo& tensor : tensors) {
    for (std::int64_t first = 0; first < tensor.shape.elements(); first += most) {
      const Tensor stretch(bytes.data(), {std::min(most, tensor.shape.elements() - first)}, tensor.dtype);
      source->read(tensor.name, first, stretch);
      sink->write(stretch);
    }
  }
  sink->finish();
}

void large(const std::filesystem::path& to) {
  constexpr std::int64_t stretch_bytes = 251 << 14;
  constexpr std::int64_t stretches = 1100;  // 4.2 GiB
  std::string bytes(stretch_bytes, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 251);
  const auto sink = create_npz(to, {{"large", {stretches, stretch_bytes}, Dtype::u8}, {"small", {3}, Dtype::u8}});
  for (std::int64_t i = 0; i < stretches; ++i) sink->write({bytes.data(), {stretch_bytes}, Dtype::u8});
  sink->write({bytes.data(), {3}, Dtype::u8});
  sink->finish();
  const auto source = open_npz(to);
  for (std::int64_t i = 0; i < stretches; ++i) {
    std::string read(stretch_bytes, '\0');
    source->read("large", i * stretch_bytes, {read.data(), {stretch_bytes}, Dtype::u8});
    VITRAIL_EXPECT(read == bytes, ExitCode::numbers, text("stretch ", i, " differs"), "it was written otherwise", "");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  try {
    if (words.size() == 2 && words[0] == "show") {
      show(words[1]);
    } else if (words.size() >= 3 && words[0] == "copy") {
      copy_tensors(words[1], words[2], words.size() > 3 ? std::stoll(words[3]) : 1000);
    } else if (words.size() == 2 && words[0] == "large") {
      large(words[1]);
    } else {
      std::cerr << "usage: see tensor_file.cpp\n";
      return 2;
    }
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return static_cast<int>(error.code());
  }
  return 0;
}
