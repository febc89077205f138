#include <algorithm>
#include <optional>
#include <utility>

#include "base/sha256.hpp"
#include "io/h5.hpp"
#include "train/checkpoint.hpp"
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

void check_file(const fs::path& folder, const CheckpointFile& file, bool verify) {
  const std::string path = (folder / file.name).string();
  constexpr const char* advice = "Restore the file, or use another checkpoint of the run";
  std::error_code failure;
  const std::uintmax_t bytes = fs::file_size(path, failure);
  VITRAIL_EXPECT(!failure, ExitCode::checkpoint, text("the checkpoint's file '", path, "' cannot be read"),
                 failure.message(), advice);
  VITRAIL_EXPECT(static_cast<std::int64_t>(bytes) == file.bytes, ExitCode::checkpoint,
                 text("the checkpoint's file '", path, "' has ", bytes, " bytes"),
                 text("its manifest says ", file.bytes), advice);
  if (!verify) return;
  const std::string sum = sha256_of_file(path, ExitCode::checkpoint);
  VITRAIL_EXPECT(sum == file.sha256, ExitCode::checkpoint,
                 text("the checkpoint's file '", path, "' is damaged: its SHA-256 is ", sum),
                 text("its manifest says ", file.sha256), advice);
}

}  // namespace

struct CheckpointReader::Contents {
  fs::path path;
  CheckpointManifest manifest;
  std::vector<std::optional<h5::File>> open;  ///< opened at the first use of each

  [[nodiscard]] const StoredTensor& tensor(const std::string& name) const;
  void read_piece(const StoredPiece& piece, Dtype dtype, std::int64_t first, std::int64_t count, std::byte* to);
};

const StoredTensor& CheckpointReader::Contents::tensor(const std::string& name) const {
  const auto found = manifest.tensors.find(name);
  if (found != manifest.tensors.end()) return found->second;
  std::vector<std::string> known;
  for (const auto& entry : manifest.tensors) known.push_back(entry.first);
  fail(ExitCode::checkpoint, {text("checkpoint '", path.string(), "' has no tensor '", name, "'"),
                              text("it holds ", known.size(), " tensors"), did_you_mean(name, known)});
}

/// Elements first .. first + count - 1 of the piece's dataset.
void CheckpointReader::Contents::read_piece(const StoredPiece& piece, Dtype dtype, std::int64_t first,
                                            std::int64_t count, std::byte* to) {
  const auto index = static_cast<std::size_t>(piece.file);
  const fs::path file = path / manifest.files[index].name;
  if (!open[index]) open[index].emplace(h5::File::open(file, ExitCode::checkpoint));
  const h5::Dataset dataset = open[index]->open_dataset(piece.dataset);
  VITRAIL_EXPECT(dataset.info().dtype == dtype && dataset.info().shape == h5::Shape{piece.count}, ExitCode::checkpoint,
                 text("dataset '", piece.dataset, "' of '", file.string(), "' is not what the manifest says"),
                 text(name_of(dtype), " [", piece.count, "] is expected"), "Use another checkpoint of the run");
  const std::int64_t most = kTransferBytes / size_of(dtype);
  for (std::int64_t done = 0; done < count; done += most) {
    dataset.read_region(dtype, {first + done}, {std::min(most, count - done)}, to + done * size_of(dtype));
  }
}

CheckpointReader::CheckpointReader(const fs::path& path, bool verify) : contents_(std::make_unique<Contents>()) {
  contents_->path = find_checkpoint(path);
  contents_->manifest = read_manifest(contents_->path);
  for (const CheckpointFile& file : contents_->manifest.files) check_file(contents_->path, file, verify);
  contents_->open.resize(contents_->manifest.files.size());
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

void CheckpointReader::read(const std::string& tensor, std::int64_t first, Tensor to) const {
  const StoredTensor& stored = contents_->tensor(tensor);
  const std::int64_t count = to.elements();
  VITRAIL_EXPECT(to.device == DeviceKind::cpu, ExitCode::checkpoint,
                 text("tensor '", tensor, "' is to be read into device memory"), "a checkpoint is read by the host",
                 "Read it into host memory and copy it");
  VITRAIL_EXPECT(
      to.dtype == stored.dtype, ExitCode::checkpoint,
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
    contents_->read_piece(*piece, stored.dtype, at - piece->first, stop - at,
                          static_cast<std::byte*>(to.data) + (at - first) * size_of(stored.dtype));
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
