#include "train/checkpoint_part.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/file.hpp"
#include "base/sha256.hpp"
#include "io/h5.hpp"

namespace vitrail {

namespace {

/// Calls work(first element, count, their bytes in host memory) for consecutive stretches of at most kTransferBytes.
template <class Work>
void in_stretches(const CheckpointPiece& piece, Work work) {
  const std::int64_t most = kTransferBytes / size_of(piece.data.dtype);
  const std::int64_t elements = piece.data.elements();
  const ConstTensor all = piece.data.view({elements});
  std::vector<std::byte> buffer;
  for (std::int64_t first = 0; first < elements; first += most) {
    const std::int64_t count = std::min(most, elements - first);
    const ConstTensor stretch = all.slice(first, count);
    const auto* bytes = static_cast<const std::byte*>(stretch.data);
    if (piece.device != nullptr && stretch.device != DeviceKind::cpu) {
      buffer.resize(static_cast<std::size_t>(stretch.bytes()));
      piece.device->copy(stretch, Tensor(buffer.data(), stretch.shape, stretch.dtype));
      bytes = buffer.data();
    }
    work(first, count, bytes);
  }
}

}  // namespace

std::string part_name(int rank, int ranks) {
  char name[64];
  std::snprintf(name, sizeof name, "part-%05d-of-%05d.h5", rank, ranks);
  return name;
}

std::string piece_dataset(const std::string& tensor, std::int64_t first) { return text(tensor, "/from-", first); }

void check_piece(const CheckpointPiece& piece) {
  const std::string& name = piece.tensor;
  VITRAIL_EXPECT(!name.empty() && name.front() != '/' && name.back() != '/' && name.find("//") == std::string::npos,
                 ExitCode::checkpoint, text("a checkpoint piece of tensor '", name, "'"),
                 "names are words joined by single slashes", "");
  VITRAIL_EXPECT(piece.data.device == DeviceKind::cpu || piece.device != nullptr, ExitCode::checkpoint,
                 text("the checkpoint piece of tensor '", name, "' is device memory"), "the device is not named",
                 "This is a bug");
  VITRAIL_EXPECT(piece.data.dtype != Dtype::c128, ExitCode::checkpoint, text("tensor '", name, "' is complex"),
                 "files hold f32, f64, bf16, i32, i64 and u8", "");
  const std::int64_t count = piece.data.elements();
  VITRAIL_EXPECT(
      piece.first >= 0 && piece.first <= piece.shape.elements() - count, ExitCode::checkpoint,
      text("a piece of ", count, " elements from ", piece.first, " on of tensor '", name, "' ", piece.shape.str()),
      "it lies outside the tensor", "");
}

void write_part(const std::filesystem::path& path, std::span<const CheckpointPiece> pieces) {
  h5::File file = h5::File::create(path, ExitCode::checkpoint);
  for (const CheckpointPiece& piece : pieces) {
    const std::int64_t elements = piece.data.elements();
    const Dtype dtype = piece.data.dtype;
    if (elements == 0) continue;
    h5::Dataset dataset = file.create_dataset(piece_dataset(piece.tensor, piece.first), dtype, {elements});
    in_stretches(piece, [&](std::int64_t first, std::int64_t count, const std::byte* bytes) {
      dataset.write_region(dtype, {first}, {count}, bytes);
    });
  }
  file.close();
  sync_to_disk(path, ExitCode::checkpoint);
}

CheckpointFile verify_part(const std::filesystem::path& path, std::span<const CheckpointPiece> pieces) {
  const h5::File file = h5::File::open(path, ExitCode::checkpoint);
  std::vector<std::byte> buffer;
  for (const CheckpointPiece& piece : pieces) {
    const std::int64_t elements = piece.data.elements();
    const Dtype dtype = piece.data.dtype;
    if (elements == 0) continue;
    const std::string name = piece_dataset(piece.tensor, piece.first);
    const h5::Dataset dataset = file.open_dataset(name);
    bool same = dataset.info().dtype == dtype && dataset.info().shape == h5::Shape{elements};
    if (same) {
      in_stretches(piece, [&](std::int64_t first, std::int64_t count, const std::byte* wanted) {
        const auto bytes = static_cast<std::size_t>(count * size_of(dtype));
        buffer.resize(std::max(buffer.size(), bytes));
        dataset.read_region(dtype, {first}, {count}, buffer.data());
        same = same && std::memcmp(buffer.data(), wanted, bytes) == 0;
      });
    }
    VITRAIL_EXPECT(same, ExitCode::checkpoint,
                   text("dataset '", name, "' of '", path.string(), "' reads back differently"),
                   "what is on disk is not what was written", "Is the file system in order?");
  }
  return {path.filename().string(), static_cast<std::int64_t>(std::filesystem::file_size(path)),
          sha256_of_file(path, ExitCode::checkpoint)};
}

}  // namespace vitrail
