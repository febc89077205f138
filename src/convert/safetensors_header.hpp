#pragma once
// The header of one safetensors file.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "convert/tensors.hpp"

namespace vitrail {

/// A tensor and its place in the file's data.
struct PlacedTensor {
  TensorInfo info;
  bool half = false;       ///< the file has f16, read as f32
  std::int64_t begin = 0;  ///< byte, counted from the end of the header
  std::int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<PlacedTensor> tensors;  ///< in the order of the data
  std::map<std::string, std::string> metadata;
};

/// Longer headers are refused: this one describes a hundred thousand tensors.
inline constexpr std::int64_t kLongestSafetensorsHeader = std::int64_t{1} << 24;

/// Parses the JSON of a header. Error (checkpoint) unless the tensors fill `data_bytes` without gaps and overlaps, each
/// with the bytes that its dtype and shape need.
SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& file, std::int64_t data_bytes);

/// Gives every tensor its place: larger elements first, otherwise the order of the list.
std::vector<PlacedTensor> place_tensors(std::span<const TensorInfo> tensors, const std::string& file);

/// Length and JSON, padded with blanks to a multiple of 8 bytes.
std::string safetensors_header(const SafetensorsHeader& header, const std::string& file);

}  // namespace vitrail
