#include "train/checkpoint_stream.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/file.hpp"
#include "train/checkpoint_folder.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/checkpoint_part.hpp"

namespace vitrail {

namespace {

/// A piece costs some 600 bytes beside its data, in its file and in the manifest.
constexpr std::int64_t kShortestRunBytes = std::int64_t{64} << 10;

}  // namespace

struct CheckpointStream::Contents {
  explicit Contents(const std::filesystem::path& run_dir) : folder(run_dir) {}

  CheckpointFolder folder;
  std::filesystem::path step_dir;  ///< when it is finished
  CheckpointManifest manifest;
  std::vector<PartWriter> parts;
  std::string name;                ///< of the tensor that was begun last; empty: none was
  StoredTensor* tensor = nullptr;  ///< that tensor
  std::int64_t done = 0;           ///< its elements that are written
  bool finished = false;

  /// The first element of its run in a file; behind the last run, the end of the tensor.
  [[nodiscard]] std::int64_t first_of(std::int64_t file) const {
    const std::int64_t elements = tensor->shape.elements();
    const std::int64_t runs = std::clamp<std::int64_t>(elements * size_of(tensor->dtype) / kShortestRunBytes, 1,
                                                       static_cast<std::int64_t>(parts.size()));
    // elements * file may be more than an integer holds.
    return file < runs ? elements / runs * file + elements % runs * file / runs : elements;
  }
  void expect_complete() const;
  void write(const std::byte* elements, std::int64_t count);
  void verify() const;
};

void CheckpointStream::Contents::expect_complete() const {
  VITRAIL_EXPECT(
      tensor == nullptr || done == tensor->shape.elements(), ExitCode::checkpoint,
      text("tensor '", name, "' ", tensor->shape.str(), " of ", step_dir.string(), " ends after ", done, " elements"),
      text("it has ", tensor->shape.elements()), "");
}

/// The next elements of the tensor, into the files whose runs they belong to.
void CheckpointStream::Contents::write(const std::byte* elements, std::int64_t count) {
  const std::int64_t size = size_of(tensor->dtype);
  for (std::int64_t file = 0; count > 0; ++file) {
    const std::int64_t first = first_of(file), end = first_of(file + 1);
    if (done >= end) continue;
    PartWriter& part = parts[static_cast<std::size_t>(file)];
    if (done == first) part.begin(name, tensor->dtype, first, end - first);
    const std::int64_t now = std::min(count, end - done);
    part.write(elements, now);
    elements += now * size;
    count -= now;
    done += now;
    if (done < end) continue;
    StoredPiece piece = part.end();
    piece.file = file;
    tensor->pieces.push_back(std::move(piece));
  }
}

void CheckpointStream::Contents::verify() const {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    StoredTensors of_part;
    for (const auto& [written, stored] : manifest.tensors) {
      StoredTensor mine{stored.shape, stored.dtype, {}};
      for (const StoredPiece& piece : stored.pieces) {
        if (piece.file == static_cast<std::int64_t>(i)) mine.pieces.push_back(piece);
      }
      of_part.emplace(written, std::move(mine));
    }
    verify_part(parts[i].path(), of_part);
  }
}

CheckpointStream::CheckpointStream(const std::filesystem::path& run_dir, CheckpointInfo info, int files)
    : contents_(std::make_unique<Contents>(run_dir)) {
  Contents& c = *contents_;
  VITRAIL_EXPECT(files > 0 && info.step >= 0, ExitCode::checkpoint,
                 text("a checkpoint of step ", info.step, " in ", files, " files"),
                 "neither may be negative, nor no file", "");
  c.step_dir = run_dir / "checkpoints" / step_name(info.step);
  c.manifest.info = std::move(info);
  c.folder.begin(c.manifest.info.step);
  try {
    for (int i = 0; i < files; ++i) {
      c.parts.emplace_back(c.folder.unfinished(c.manifest.info.step) / part_name(i, files),
                           PartWriter::Opening::create);
    }
  } catch (...) {
    c.parts.clear();
    c.folder.abandon(c.manifest.info.step);
    throw;
  }
}

CheckpointStream::~CheckpointStream() {
  contents_->parts.clear();  // a file that is open keeps its space
  if (!contents_->finished) contents_->folder.abandon(contents_->manifest.info.step);
}

void CheckpointStream::begin(const std::string& tensor, const Shape& shape, Dtype dtype) {
  Contents& c = *contents_;
  c.expect_complete();
  check_tensor_name(tensor);
  VITRAIL_EXPECT(dtype != Dtype::c128, ExitCode::checkpoint, text("tensor '", tensor, "' is complex"),
                 "files hold f32, f64, bf16, i32, i64 and u8", "");
  const auto [place, is_new] = c.manifest.tensors.try_emplace(tensor, StoredTensor{shape, dtype, {}});
  VITRAIL_EXPECT(is_new, ExitCode::checkpoint, text("tensor '", tensor, "' was written to ", c.step_dir.string()),
                 "it cannot be written twice", "");
  c.name = tensor;
  c.tensor = &place->second;
  c.done = 0;
}

void CheckpointStream::write(ConstTensor stretch) {
  Contents& c = *contents_;
  VITRAIL_EXPECT(c.tensor != nullptr, ExitCode::checkpoint, "a stretch of no tensor", "none was begun",
                 "This is a bug");
  VITRAIL_EXPECT(stretch.device == DeviceKind::cpu && stretch.dtype == c.tensor->dtype, ExitCode::checkpoint,
                 text("a stretch of ", name_of(stretch.dtype), " for tensor '", c.name, "'"),
                 text("it is made of ", name_of(c.tensor->dtype), " in host memory"), "This is a bug");
  VITRAIL_EXPECT(
      stretch.elements() <= c.tensor->shape.elements() - c.done, ExitCode::checkpoint,
      text(stretch.elements(), " elements of tensor '", c.name, "' ", c.tensor->shape.str(), " after ", c.done),
      "it has no more than its shape says", "");
  c.write(static_cast<const std::byte*>(stretch.data), stretch.elements());
}

std::filesystem::path CheckpointStream::finish() {
  Contents& c = *contents_;
  c.expect_complete();
  const std::int64_t step = c.manifest.info.step;
  for (PartWriter& part : c.parts) part.close();
  c.verify();
  for (std::size_t i = 0; i < c.parts.size(); ++i) {
    std::vector<Extent> extents;
    for (const auto& [name, tensor] : c.manifest.tensors) {
      for (const StoredPiece& piece : tensor.pieces) {
        if (piece.file == static_cast<std::int64_t>(i)) extents.push_back(extent_of(piece, tensor.dtype));
      }
    }
    c.manifest.files.push_back(describe_part(c.parts[i].path(), std::move(extents)));
  }
  const std::filesystem::path unfinished = c.folder.unfinished(step);
  write_file_atomically(unfinished / kManifestName, manifest_text(c.manifest), ExitCode::checkpoint);
  (void)read_manifest(unfinished);
  c.folder.publish(step);
  c.finished = true;
  return c.step_dir;
}

}  // namespace vitrail
