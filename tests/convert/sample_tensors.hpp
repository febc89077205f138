#pragma once
// Tensors of every dtype and of awkward sizes, and ways to write them to a sink and to compare a source with them.

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "convert/tensors.hpp"

namespace vitrail::testing {

struct SampleTensor {
  TensorInfo info;
  std::string bytes;
};

/// Bytes are a function of name and place; floating-point numbers may be anything, NaN included.
inline SampleTensor sample_tensor(const std::string& name, const Shape& shape, Dtype dtype) {
  SampleTensor made{{name, shape, dtype}, std::string(static_cast<std::size_t>(shape.elements() * size_of(dtype)), 0)};
  std::size_t state = std::hash<std::string>()(name);
  for (char& byte : made.bytes) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    byte = static_cast<char>(state >> 56);
  }
  return made;
}

inline std::vector<SampleTensor> sample_tensors() {
  std::vector<SampleTensor> made;
  for (const Dtype dtype : {Dtype::f32, Dtype::u8, Dtype::f64, Dtype::bf16, Dtype::i32, Dtype::i64}) {
    const std::string name(name_of(dtype));
    made.push_back(sample_tensor("empty/" + name, {0}, dtype));
    made.push_back(sample_tensor(name + "/scalar", {}, dtype));
    made.push_back(sample_tensor(name + "/one", {1}, dtype));
    made.push_back(sample_tensor(name + "/Encoder/kernel \"q\" \xC3\xA9", {3, 1, 7}, dtype));
    made.push_back(sample_tensor(name + "/six", {1, 2, 1, 3, 1, 5}, dtype));
    made.push_back(sample_tensor("nothing/" + name, {5, 0, 7}, dtype));
  }
  made.push_back(sample_tensor("large", {331, 401}, Dtype::f32));
  made.push_back(sample_tensor("last/without/elements", {0, 2}, Dtype::u8));
  return made;
}

inline std::vector<TensorInfo> infos(const std::vector<SampleTensor>& tensors) {
  std::vector<TensorInfo> made;
  made.reserve(tensors.size());
  for (const SampleTensor& tensor : tensors) made.push_back(tensor.info);
  return made;
}

/// In stretches of at most `stretch` elements.
inline void write_samples(TensorSink& sink, const std::vector<SampleTensor>& tensors, std::int64_t stretch) {
  for (const SampleTensor& tensor : tensors) {
    const std::int64_t elements = tensor.info.shape.elements();
    for (std::int64_t first = 0; first < elements; first += stretch) {
      sink.write({tensor.bytes.data() + first * size_of(tensor.info.dtype),
                  {std::min(stretch, elements - first)},
                  tensor.info.dtype});
    }
  }
}

inline std::string read_part(TensorSource& source, const TensorInfo& tensor, std::int64_t first, std::int64_t count) {
  std::string bytes(static_cast<std::size_t>(count * size_of(tensor.dtype)), '\0');
  source.read(tensor.name, first, {bytes.data(), {count}, tensor.dtype});
  return bytes;
}

inline std::string read_whole(TensorSource& source, const TensorInfo& tensor) {
  return read_part(source, tensor, 0, tensor.shape.elements());
}

/// Whole, in stretches, and from the middle.
inline void expect_samples(TensorSource& source, const std::vector<SampleTensor>& tensors) {
  ASSERT_EQ(source.tensors().size(), tensors.size());
  for (const SampleTensor& tensor : tensors) {
    const auto found = std::find(source.tensors().begin(), source.tensors().end(), tensor.info);
    ASSERT_NE(found, source.tensors().end()) << tensor.info.name;
    const std::int64_t elements = tensor.info.shape.elements();
    const auto size = static_cast<std::size_t>(size_of(tensor.info.dtype));
    EXPECT_EQ(read_whole(source, tensor.info), tensor.bytes) << tensor.info.name;
    std::string in_stretches;
    const std::int64_t stretch = std::max<std::int64_t>(1, elements / 3);
    for (std::int64_t first = 0; first < elements; first += stretch) {
      in_stretches += read_part(source, tensor.info, first, std::min(stretch, elements - first));
    }
    EXPECT_EQ(in_stretches, tensor.bytes) << tensor.info.name;
    const std::int64_t middle = elements / 2;
    EXPECT_EQ(read_part(source, tensor.info, middle, elements - middle),
              tensor.bytes.substr(static_cast<std::size_t>(middle) * size))
        << tensor.info.name;
  }
}

/// Reads what a source claims to have, but at most `most` elements at a time.
inline void read_everything(TensorSource& source, std::int64_t most) {
  for (const TensorInfo& tensor : source.tensors()) {
    const std::int64_t elements = tensor.shape.elements();
    for (std::int64_t first = 0; first < elements; first += most) {
      read_part(source, tensor, first, std::min(most, elements - first));
    }
  }
}

inline void expect_says(const Error& error, const std::string& part) {
  EXPECT_EQ(error.code(), ExitCode::checkpoint) << error.what();
  EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << "'" << part << "' is not in: " << error.what();
}

}  // namespace vitrail::testing
