#include "train/checkpoint_part.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/file.hpp"

namespace vitrail {

namespace {

/// Calls work(count, their bytes in host memory) for consecutive stretches of at most kTransferBytes.
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
    work(count, bytes);
  }
}

/// The dataset is where `piece` says, of its type and size. HDF5 reads its description alone.
bool is_in_place(const h5::File& file, const std::string& dataset, Dtype dtype, const StoredPiece& piece) {
  const h5::Dataset found = file.open_dataset(dataset);
  return found.info().dtype == dtype && found.info().shape == h5::Shape{piece.count} && found.offset() == piece.offset;
}

}  // namespace

std::string part_name(int file, int files) {
  char name[64];
  std::snprintf(name, sizeof name, "part-%05d-of-%05d.h5", file, files);
  return name;
}

std::string piece_dataset(const std::string& tensor, std::int64_t first) { return text(tensor, "/from-", first); }

void check_tensor_name(const std::string& name) {
  VITRAIL_EXPECT(!name.empty() && name.front() != '/' && name.back() != '/' && name.find("//") == std::string::npos,
                 ExitCode::checkpoint, text("a checkpoint piece of tensor '", name, "'"),
                 "names are words joined by single slashes", "");
}

void check_piece(const CheckpointPiece& piece) {
  const std::string& name = piece.tensor;
  check_tensor_name(name);
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

PartWriter::PartWriter(std::filesystem::path path, Opening opening)
    : path_(std::move(path)),
      file_(opening == Opening::create ? h5::File::create(path_, ExitCode::checkpoint)
                                       : h5::File::append(path_, ExitCode::checkpoint)) {}

void PartWriter::begin(const std::string& tensor, Dtype dtype, std::int64_t first, std::int64_t count) {
  dataset_.emplace(file_.create_dataset(piece_dataset(tensor, first), dtype, {count}));
  dtype_ = dtype;
  piece_ = {0, first, count, 0, {}};
  done_ = 0;
}

void PartWriter::write(const std::byte* elements, std::int64_t count) {
  const std::int64_t most = kTransferBytes / size_of(dtype_);
  while (count > 0) {
    const std::int64_t now = std::min(most, count);
    dataset_->write_region(dtype_, {done_}, {now}, elements);
    sums_.update(elements, now * size_of(dtype_));
    elements += now * size_of(dtype_);
    done_ += now;
    count -= now;
  }
}

StoredPiece PartWriter::end() {
  piece_.offset = dataset_->offset();
  piece_.sums = sums_.take();
  dataset_.reset();
  return piece_;
}

void PartWriter::close() {
  dataset_.reset();
  file_.close();
  sync_to_disk(path_, ExitCode::checkpoint);
}

StoredTensors write_part(const std::filesystem::path& path, PartWriter::Opening opening,
                         std::span<const CheckpointPiece> pieces, const std::function<void()>& alive) {
  StoredTensors written;
  PartWriter writer(path, opening);
  for (const CheckpointPiece& piece : pieces) {
    StoredTensor& tensor =
        written.try_emplace(piece.tensor, StoredTensor{piece.shape, piece.data.dtype, {}}).first->second;
    if (piece.data.elements() == 0) continue;
    writer.begin(piece.tensor, piece.data.dtype, piece.first, piece.data.elements());
    in_stretches(piece, [&](std::int64_t count, const std::byte* bytes) { writer.write(bytes, count); });
    tensor.pieces.push_back(writer.end());
    alive();
  }
  writer.close();
  return written;
}

void verify_part(const std::filesystem::path& path, const StoredTensors& written, const std::function<void()>& alive) {
  const h5::File file = h5::File::open(path, ExitCode::checkpoint);
  const FileBytes bytes(path, ExitCode::checkpoint);
  for (const auto& [name, tensor] : written) {
    for (const StoredPiece& piece : tensor.pieces) {
      const std::string dataset = piece_dataset(name, piece.first);
      const bool same = is_in_place(file, dataset, tensor.dtype, piece) &&
                        !damaged_blocks(bytes, extent_of(piece, tensor.dtype), piece.sums, kBlockBytes);
      VITRAIL_EXPECT(same, ExitCode::checkpoint,
                     text("dataset '", dataset, "' of '", path.string(), "' reads back differently"),
                     "what is on disk is not what was written", "Is the file system in order?");
      alive();
    }
  }
}

CheckpointFile describe_part(const std::filesystem::path& path, std::vector<Extent> extents) {
  const FileBytes file(path, ExitCode::checkpoint);
  return {path.filename().string(), file.size(), sum_of_rest(file, std::move(extents))};
}

}  // namespace vitrail
