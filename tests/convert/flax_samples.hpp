#pragma once
// What the tests of flax files share: a folder, tensors with arbitrary bits, files made by the official writer.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "convert/flax_msgpack.hpp"

namespace vitrail::testing {

/// A new folder, removed with all its content at the end.
class FlaxFolder {
 public:
  FlaxFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "vitrail-flax-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  FlaxFolder(const FlaxFolder&) = delete;
  FlaxFolder& operator=(const FlaxFolder&) = delete;
  ~FlaxFolder() {
    std::error_code failure;
    std::filesystem::remove_all(path_, failure);
  }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) found.push_back(entry.path().filename());
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  std::filesystem::path path_;
};

inline std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("no file " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A new file: shortening an old one makes some file systems write to disk at once.
inline void put(const std::filesystem::path& path, const std::string& content) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << content;
}

/// tests/golden/NAME.
inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(VITRAIL_SOURCE_DIR) / "tests/golden" / name;
}

struct FlaxTensor {
  TensorInfo info;
  std::string bytes;
};

inline FlaxTensor random_tensor(const std::string& name, Shape shape, Dtype dtype) {
  FlaxTensor tensor{{name, shape, dtype}, std::string(static_cast<std::size_t>(shape.elements() * size_of(dtype)), 0)};
  std::mt19937 engine(static_cast<std::uint32_t>(std::hash<std::string>()(name)));
  for (char& byte : tensor.bytes) byte = static_cast<char>(engine());
  return tensor;
}

inline std::vector<TensorInfo> infos_of(const std::vector<FlaxTensor>& tensors) {
  std::vector<TensorInfo> infos;
  infos.reserve(tensors.size());
  for (const FlaxTensor& tensor : tensors) infos.push_back(tensor.info);
  return infos;
}

/// In stretches of at most `longest` elements.
inline void write_tensors(TensorSink& sink, const std::vector<FlaxTensor>& tensors, std::int64_t longest) {
  for (const FlaxTensor& tensor : tensors) {
    const std::int64_t size = size_of(tensor.info.dtype);
    for (std::int64_t done = 0; done < tensor.info.shape.elements();) {
      const std::int64_t count = std::min(longest, tensor.info.shape.elements() - done);
      sink.write(ConstTensor(tensor.bytes.data() + done * size, {count}, tensor.info.dtype));
      done += count;
    }
  }
  sink.finish();
}

/// Elements of a tensor, as bytes.
inline std::string read_range(TensorSource& source, const TensorInfo& info, std::int64_t first, std::int64_t count) {
  std::string bytes(static_cast<std::size_t>(count * size_of(info.dtype)), '?');
  source.read(info.name, first, Tensor(bytes.data(), {count}, info.dtype));
  return bytes;
}

inline std::string read_whole(TensorSource& source, const TensorInfo& info) {
  return read_range(source, info, 0, info.shape.elements());
}

/// All of a file's tensors.
inline std::vector<FlaxTensor> read_tensors(TensorSource& source) {
  std::vector<FlaxTensor> tensors;
  for (const TensorInfo& info : source.tensors()) tensors.push_back({info, read_whole(source, info)});
  return tensors;
}

}  // namespace vitrail::testing
