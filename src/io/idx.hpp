#pragma once
// IDX files, the format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist): two zero bytes, a type, the
// number of dimensions, the dimensions as big-endian 32-bit numbers, the values. Plain or gzip: told apart by content.

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <vector>

#include "base/error.hpp"

namespace vitrail {

/// Only unsigned bytes (type 8) are read: images [n, rows, columns], labels [n], or [n, classes] of 0 and 1.
struct IdxArray {
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> values;  ///< row-major
};

/// Reads a file that has one of these numbers of dimensions. Missing, of another kind, cut short, too long, or damaged
/// gzip: Error(code).
IdxArray read_idx(const std::filesystem::path& path, std::initializer_list<int> dimensions, ExitCode code);

}  // namespace vitrail
