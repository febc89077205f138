#pragma once
// IDX files, the format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist): two zero bytes, a type, the
// number of dimensions, the dimensions as big-endian 32-bit numbers, the values. Plain or gzip: told apart by content.

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/error.hpp"

namespace vitrail {

/// Only unsigned bytes (type 8) are read: images [n, rows, columns] and labels [n].
struct IdxArray {
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> values;  ///< row-major
};

/// Reads a file of exactly `dimensions` dimensions. Missing, of another kind, cut short, too long, or damaged gzip:
/// Error(code).
IdxArray read_idx(const std::filesystem::path& path, int dimensions, ExitCode code);

}  // namespace vitrail
