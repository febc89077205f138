#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "base/bf16.hpp"
#include "base/file.hpp"
#include "base/sha256.hpp"
#include "train/checkpoint.hpp"
#include "train/checkpoint_blocks.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/checkpoint_part.hpp"

namespace vitrail {

namespace fs = std::filesystem;

namespace {

/// The checkpoint that `path` stands for.
fs::path find_checkpoint(const fs::path& path) {
  std::error_code failure;
  VITRAIL_EXPECT(fs::is_directory(path, failure), ExitCode::checkpoint, text("no checkpoint '", path.string(), "'"),
                 fs::exists(path, failure) ? "it is not a folder" : "there is no such folder",
                 "Give the folder of a run or one of its checkpoints/step-... folders");
  if (fs::exists(path / kManifestName, failure)) return path;
  const std::optional<fs::path> latest = latest_checkpoint(path);
  VITRAIL_EXPECT(latest.has_value(), ExitCode::checkpoint, text("no checkpoint in '", path.string(), "'"),
                 text("it has no ", kManifestName, ", and no checkpoints/step-... folder below it has one"),
                 "Give the folder of a run or one of its checkpoints/step-... folders; a folder without a manifest is "
                 "an unfinished save");
  return *latest;
}

constexpr const char* kAdvice = "Restore the file, or use another checkpoint of the run";

/// Files that are open at a time; a checkpoint may have more of them than a process may open.
constexpr std::size_t kMostOpen = 64;

void check_file(const fs::path& folder, const CheckpointFile& file) {
  const std::string path = (folder / file.name).string();
  std::error_code failure;
  const std::uintmax_t bytes = fs::file_size(path, failure);
  VITRAIL_EXPECT(!failure, ExitCode::checkpoint, text("the checkpoint's file '", path, "' cannot be read"),
                 failure.message(), kAdvice);
  VITRAIL_EXPECT(static_cast<std::int64_t>(bytes) == file.bytes, ExitCode::checkpoint,
                 text("the checkpoint's file '", path, "' has ", bytes, " bytes"),
                 text("its manifest says ", file.bytes), kAdvice);
}

double value_of(float x) { return x; }
double value_of(double x) { return x; }
double value_of(Bf16 x) { return to_float(x); }

template <class From, class To>
void convert(const std::byte* from, std::int64_t count, std::byte* to) {
  for (std::int64_t i = 0; i < count; ++i) {
    From value{};
    std::memcpy(&value, from + i * static_cast<std::int64_t>(sizeof value), sizeof value);
    const To converted = static_cast<To>(value_of(value));
    std::memcpy(to + i * static_cast<std::int64_t>(sizeof converted), &converted, sizeof converted);
  }
}

bool is_real(Dtype dtype) { return dtype == Dtype::f32 || dtype == Dtype::f64; }

bool converts(Dtype from, Dtype to) { return from == to || (is_real(to) && (is_real(from) || from == Dtype::bf16)); }

/// `count` elements, if converts(from, to).
void convert(Dtype from, const std::byte* elements, std::int64_t count, Dtype to, std::byte* converted) {
  if (from == to) {
    std::memcpy(converted, elements, static_cast<std::size_t>(count * size_of(to)));
  } else if (from == Dtype::f32) {
    convert<float, double>(elements, count, converted);
  } else if (from == Dtype::f64) {
    convert<double, float>(elements, count, converted);
  } else if (to == Dtype::f32) {
    convert<Bf16, float>(elements, count, converted);
  } else {
    convert<Bf16, double>(elements, count, converted);
  }
}

}  // namespace

struct CheckpointReader::Contents {
  fs::path path;
  CheckpointManifest manifest;
  std::map<std::int64_t, FileBytes> open;  ///< files by their index, opened at the first use of each

  /// The block read last: a tensor is often read in short stretches.
  std::int64_t file_of_block = -1;
  std::int64_t offset_of_block = 0;
  std::vector<std::byte> block;

  [[nodiscard]] const StoredTensor& tensor(const std::string& name) const;
  const FileBytes& file(std::int64_t index);
  void read_block(const std::string& tensor, Dtype dtype, const StoredPiece& piece, std::int64_t index);
  void read_piece(const std::string& tensor, Dtype dtype, const StoredPiece& piece, std::int64_t first,
                  std::int64_t count, Dtype as, std::byte* to);
  [[nodiscard]] std::vector<Damage> damage_of_file(std::int64_t index) const;
};

const StoredTensor& CheckpointReader::Contents::tensor(const std::string& name) const {
  const auto found = manifest.tensors.find(name);
  if (found != manifest.tensors.end()) return found->second;
  std::vector<std::string> known;
  for (const auto& entry : manifest.tensors) known.push_back(entry.first);
  fail(ExitCode::checkpoint, {text("checkpoint '", path.string(), "' has no tensor '", name, "'"),
                              text("it holds ", known.size(), " tensors"), did_you_mean(name, known)});
}

const FileBytes& CheckpointReader::Contents::file(std::int64_t index) {
  if (const auto found = open.find(index); found != open.end()) return found->second;
  if (open.size() == kMostOpen) open.clear();
  const std::string& name = manifest.files[static_cast<std::size_t>(index)].name;
  return open.emplace(index, FileBytes(path / name, ExitCode::checkpoint)).first->second;
}

/// Block `index` of the piece into `block`, checked.
void CheckpointReader::Contents::read_block(const std::string& tensor, Dtype dtype, const StoredPiece& piece,
                                            std::int64_t index) {
  const Extent extent = extent_of(piece, dtype);
  const std::int64_t begin = index * manifest.block_bytes;
  const std::int64_t offset = extent.offset + begin;
  const std::int64_t bytes = std::min(manifest.block_bytes, extent.bytes - begin);
  if (file_of_block == piece.file && offset_of_block == offset) return;
  file_of_block = -1;
  block.resize(static_cast<std::size_t>(bytes));
  const FileBytes& from = file(piece.file);
  from.read(offset, block);
  Sha256 sum;
  sum.update(block.data(), block.size());
  VITRAIL_EXPECT(piece.sums.compare(static_cast<std::size_t>(index * kSumDigits), kSumDigits, sum.hex()) == 0,
                 ExitCode::checkpoint,
                 text("tensor '", tensor, "' is damaged in file '", from.path().string(), "' at offset ", offset),
                 text("the checksum of the ", bytes, " bytes from there on is not the manifest's"), kAdvice);
  file_of_block = piece.file;
  offset_of_block = offset;
}

/// Elements first .. first + count - 1 of the piece.
void CheckpointReader::Contents::read_piece(const std::string& tensor, Dtype dtype, const StoredPiece& piece,
                                            std::int64_t first, std::int64_t count, Dtype as, std::byte* to) {
  const std::int64_t of_block = manifest.block_bytes / size_of(dtype);
  for (std::int64_t at = first; at < first + count;) {
    const std::int64_t index = at / of_block;
    const std::int64_t stop = std::min(first + count, (index + 1) * of_block);
    read_block(tensor, dtype, piece, index);
    convert(dtype, block.data() + (at - index * of_block) * size_of(dtype), stop - at, as,
            to + (at - first) * size_of(as));
    at = stop;
  }
}

CheckpointReader::CheckpointReader(const fs::path& path) : contents_(std::make_unique<Contents>()) {
  contents_->path = find_checkpoint(path);
  contents_->manifest = read_manifest(contents_->path);
  for (const CheckpointFile& file : contents_->manifest.files) check_file(contents_->path, file);
}

CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader::~CheckpointReader() = default;

const fs::path& CheckpointReader::path() const noexcept { return contents_->path; }

const CheckpointInfo& CheckpointReader::info() const noexcept { return contents_->manifest.info; }

std::vector<std::string> CheckpointReader::tensors() const {
  std::vector<std::string> names;
  for (const auto& entry : contents_->manifest.tensors) names.push_back(entry.first);
  return names;
}

bool CheckpointReader::has(const std::string& tensor) const { return contents_->manifest.tensors.count(tensor) > 0; }

Shape CheckpointReader::shape(const std::string& tensor) const { return contents_->tensor(tensor).shape; }

Dtype CheckpointReader::dtype(const std::string& tensor) const { return contents_->tensor(tensor).dtype; }

std::vector<StoredPlace> CheckpointReader::places(const std::string& tensor) const {
  std::vector<StoredPlace> places;
  for (const StoredPiece& piece : contents_->tensor(tensor).pieces) {
    const std::string& file = contents_->manifest.files[static_cast<std::size_t>(piece.file)].name;
    places.push_back({file, piece.first, piece.count, piece.offset});
  }
  return places;
}

void CheckpointReader::read(const std::string& tensor, std::int64_t first, Tensor to) const {
  const StoredTensor& stored = contents_->tensor(tensor);
  const std::int64_t count = to.elements();
  VITRAIL_EXPECT(to.device == DeviceKind::cpu, ExitCode::checkpoint,
                 text("tensor '", tensor, "' is to be read into device memory"), "a checkpoint is read by the host",
                 "Read it into host memory and copy it");
  VITRAIL_EXPECT(
      converts(stored.dtype, to.dtype), ExitCode::checkpoint,
      text("tensor '", tensor, "' of checkpoint '", contents_->path.string(), "' is ", name_of(stored.dtype)),
      text("it is needed as ", name_of(to.dtype)), "");
  VITRAIL_EXPECT(first >= 0 && first <= stored.shape.elements() - count, ExitCode::checkpoint,
                 text(count, " elements from ", first, " on of tensor '", tensor, "'"),
                 text("in checkpoint '", contents_->path.string(), "' its shape is ", stored.shape.str()), "");
  const std::int64_t end = first + count;
  // The piece in which `first` lies: the last one that does not begin behind it.
  auto piece = std::upper_bound(stored.pieces.begin(), stored.pieces.end(), first,
                                [](std::int64_t element, const StoredPiece& p) { return element < p.first; });
  if (piece != stored.pieces.begin()) --piece;
  for (std::int64_t at = first; at < end; ++piece) {
    const std::int64_t stop = std::min(end, piece->first + piece->count);
    contents_->read_piece(tensor, stored.dtype, *piece, at - piece->first, stop - at, to.dtype,
                          static_cast<std::byte*>(to.data) + (at - first) * size_of(to.dtype));
    at = stop;
  }
}

void CheckpointReader::read(const std::string& tensor, std::int64_t first, Device& device, Tensor to) const {
  if (to.device == DeviceKind::cpu) return read(tensor, first, to);
  const std::int64_t most = kTransferBytes / size_of(to.dtype);
  const Tensor all = to.view({to.elements()});
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(kTransferBytes, to.bytes())));
  for (std::int64_t done = 0; done < all.elements(); done += most) {
    const std::int64_t count = std::min(most, all.elements() - done);
    const Tensor piece(buffer.data(), {count}, to.dtype);
    read(tensor, first + done, piece);
    device.copy(piece, all.slice(done, count));
  }
}

std::vector<Damage> CheckpointReader::Contents::damage_of_file(std::int64_t index) const {
  const CheckpointFile& stored = manifest.files[static_cast<std::size_t>(index)];
  std::vector<Damage> damage;
  try {
    check_file(path, stored);
    const FileBytes file(path / stored.name, ExitCode::checkpoint);
    std::vector<Extent> extents;
    for (const auto& [name, tensor] : manifest.tensors) {
      for (const StoredPiece& piece : tensor.pieces) {
        if (piece.file != index) continue;
        extents.push_back(extent_of(piece, tensor.dtype));
        const auto damaged = damaged_blocks(file, extents.back(), piece.sums, manifest.block_bytes);
        if (!damaged) continue;
        const std::string more =
            damaged->blocks > 1 ? text(", nor are those of ", damaged->blocks - 1, " more blocks behind them") : "";
        damage.push_back({name, stored.name, damaged->first,
                          text("bytes ", damaged->first, " to ", damaged->first + damaged->bytes - 1,
                               " are not those that were saved", more)});
      }
    }
    std::sort(damage.begin(), damage.end(), [](const Damage& a, const Damage& b) { return a.offset < b.offset; });
    if (sum_of_rest(file, std::move(extents)) != stored.sum) {
      damage.push_back(
          {"", stored.name, std::nullopt, "the bytes between the tensors (HDF5's own) are not those that were saved"});
    }
  } catch (const Error& error) {
    damage.push_back({"", stored.name, std::nullopt, text(error.fault().problem, " (", error.fault().why, ")")});
  }
  return damage;
}

std::vector<Damage> CheckpointReader::verify() const {
  std::vector<Damage> damage;
  for (std::size_t i = 0; i < contents_->manifest.files.size(); ++i) {
    for (Damage& one : contents_->damage_of_file(static_cast<std::int64_t>(i))) damage.push_back(std::move(one));
  }
  return damage;
}

std::string CheckpointReader::digest() const {
  Sha256 sum;
  sum.update(text("step ", info().step, "\n"));
  std::vector<std::byte> buffer;
  for (const auto& [name, tensor] : contents_->manifest.tensors) {
    // The terminating zero ends the name, whatever it contains.
    sum.update(name.c_str(), name.size() + 1);
    sum.update(text(name_of(tensor.dtype), " ", tensor.shape.str(), "\n"));
    const std::int64_t elements = tensor.shape.elements();
    const std::int64_t most = kTransferBytes / size_of(tensor.dtype);
    for (std::int64_t first = 0; first < elements; first += most) {
      const std::int64_t count = std::min(most, elements - first);
      const auto bytes = static_cast<std::size_t>(count * size_of(tensor.dtype));
      buffer.resize(std::max(buffer.size(), bytes));
      read(name, first, {buffer.data(), {count}, tensor.dtype});
      sum.update(buffer.data(), bytes);
    }
  }
  return sum.hex();
}

}  // namespace vitrail
