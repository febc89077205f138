#include "train/checkpoint_manifest.hpp"

#include <algorithm>
#include <array>

#include "base/file.hpp"
#include "base/sha256.hpp"

namespace vitrail {

namespace {

constexpr const char* kFormat = "vitrail checkpoint";
constexpr std::int64_t kVersion = 2;
constexpr const char* kUseAnother = "Use another checkpoint of the run";

Json shape_to_json(const Shape& shape) {
  Json lengths = Json::array();
  for (const std::int64_t length : shape.lengths()) lengths.push_back(length);
  return lengths;
}

Shape shape_from_json(const Json& json, const std::string& tensor) {
  std::vector<std::int64_t> lengths;
  std::int64_t elements = 1;
  bool possible = json.items().size() <= Shape::kMaxAxes;
  for (const Json& length : json.items()) {
    lengths.push_back(length.as_integer());
    possible = possible && lengths.back() >= 0 && !__builtin_mul_overflow(elements, lengths.back(), &elements);
  }
  VITRAIL_EXPECT(possible, ExitCode::checkpoint, text("the shape ", json.dump(), " of tensor '", tensor, "'"),
                 text("a shape has at most ", Shape::kMaxAxes, " lengths, none negative"), kUseAnother);
  return Shape(std::span<const std::int64_t>(lengths));
}

Dtype dtype_from_json(const Json& json, const std::string& tensor) {
  constexpr std::array stored = {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::i32, Dtype::i64, Dtype::u8};
  const std::string& name = json.as_string();
  const auto* const found = std::find_if(stored.begin(), stored.end(), [&](Dtype d) { return name_of(d) == name; });
  VITRAIL_EXPECT(found != stored.end(), ExitCode::checkpoint, text("the dtype '", name, "' of tensor '", tensor, "'"),
                 "files hold f32, f64, bf16, i32, i64 and u8", "Was it written by a newer version of Vitrail?");
  return *found;
}

/// The items of an array of `n`.
template <std::size_t n>
std::array<Json, n> expect_items(const Json& json) {
  VITRAIL_EXPECT(json.items().size() == n, ExitCode::checkpoint,
                 text("'", json.dump().substr(0, 60), "' in a manifest"), text("it must have ", n, " items"),
                 kUseAnother);
  std::array<Json, n> items;
  std::copy(json.items().begin(), json.items().end(), items.begin());
  return items;
}

std::vector<CheckpointFile> files_from_json(const Json& json) {
  std::vector<CheckpointFile> files;
  for (const Json& entry : json.items()) {
    const auto& [name, bytes, sum] = expect_items<3>(entry);
    files.push_back({name.as_string(), bytes.as_integer(), sum.as_string()});
    VITRAIL_EXPECT(!files.back().name.empty() && files.back().name.find('/') == std::string::npos, ExitCode::checkpoint,
                   text("the checkpoint's file name '", files.back().name, "'"),
                   "it must be a file in the checkpoint's own folder", kUseAnother);
  }
  return files;
}

std::string range(std::int64_t first, std::int64_t end) { return text("elements ", first, " to ", end - 1); }

/// All members but "sha256", which is their checksum.
Json without_checksum(const Json& manifest) {
  Json rest = Json::object();
  for (const JsonMember& member : manifest.members()) {
    if (member.key != "sha256") rest.set(member.key, member.value);
  }
  return rest;
}

void check_kind(const Json& manifest, const std::string& path) {
  const Json* format = manifest.find("format");
  VITRAIL_EXPECT(format != nullptr && *format == Json(kFormat), ExitCode::checkpoint,
                 text("'", path, "' is not the manifest of a Vitrail checkpoint"),
                 text("its member 'format' is not '", kFormat, "'"), "Is the path right?");
  const std::int64_t version = manifest.at("version").as_integer();
  VITRAIL_EXPECT(version == kVersion, ExitCode::checkpoint, text("'", path, "' has version ", version),
                 text("this program reads version ", kVersion), "Use the version of Vitrail that wrote it");
  VITRAIL_EXPECT(sha256_of(without_checksum(manifest).dump()) == manifest.at("sha256").as_string(),
                 ExitCode::checkpoint, text("'", path, "' has changed since it was written"),
                 "its checksum (member 'sha256') does not fit the rest", kUseAnother);
}

Json tensor_to_json(const StoredTensor& tensor) {
  Json pieces = Json::array();
  for (const StoredPiece& piece : tensor.pieces) {
    pieces.push_back(Json::array()
                         .push_back(piece.file)
                         .push_back(piece.first)
                         .push_back(piece.count)
                         .push_back(piece.offset)
                         .push_back(piece.sums));
  }
  return Json::object()
      .set("shape", shape_to_json(tensor.shape))
      .set("dtype", name_of(tensor.dtype))
      .set("pieces", std::move(pieces));
}

/// Members of an object, and of those in it, on lines of their own: readable, without a line for every number.
std::string in_lines(const Json& json, const std::string& indent = " ") {
  if (indent.size() > 2 || !json.is_object() || json.members().empty()) return json.dump();
  std::string lines = "{";
  for (const JsonMember& member : json.members()) {
    lines += text(lines.size() > 1 ? ",\n" : "\n", indent, Json(member.key).dump(), ": ",
                  in_lines(member.value, indent + " "));
  }
  return lines + "}";
}

/// The piece lies in a file of the checkpoint and has a checksum for each block.
void check_place(const CheckpointManifest& manifest, const std::string& name, Dtype dtype, const StoredPiece& piece,
                 const std::string& path) {
  const auto files = static_cast<std::int64_t>(manifest.files.size());
  VITRAIL_EXPECT(piece.file >= 0 && piece.file < files, ExitCode::checkpoint,
                 text("'", path, "': tensor '", name, "' has a piece in file ", piece.file),
                 text("the checkpoint has ", files, " files"), kUseAnother);
  const CheckpointFile& file = manifest.files[static_cast<std::size_t>(piece.file)];
  const bool fits = piece.offset >= 0 && piece.count <= (file.bytes - piece.offset) / size_of(dtype);
  VITRAIL_EXPECT(fits, ExitCode::checkpoint,
                 text("'", path, "': ", piece.count, " elements of tensor '", name, "' from byte ", piece.offset,
                      " on of '", file.name, "'"),
                 text("the file has ", file.bytes, " bytes"), kUseAnother);
  const std::int64_t bytes = piece.count * size_of(dtype);
  const std::int64_t blocks = (bytes + manifest.block_bytes - 1) / manifest.block_bytes;
  VITRAIL_EXPECT(static_cast<std::int64_t>(piece.sums.size()) == blocks * kSumDigits, ExitCode::checkpoint,
                 text("'", path, "': ", piece.sums.size(), " digits of checksums for a piece of tensor '", name, "'"),
                 text("it has ", blocks, " blocks"), kUseAnother);
}

}  // namespace

Json tensors_to_json(const StoredTensors& tensors) {
  Json json = Json::object();
  for (const auto& [name, tensor] : tensors) json.set(name, tensor_to_json(tensor));
  return json;
}

StoredTensors tensors_from_json(const Json& json) {
  StoredTensors tensors;
  for (const JsonMember& member : json.members()) {
    StoredTensor& tensor = tensors[member.key];
    tensor.shape = shape_from_json(member.value.at("shape"), member.key);
    tensor.dtype = dtype_from_json(member.value.at("dtype"), member.key);
    for (const Json& piece : member.value.at("pieces").items()) {
      const auto& [file, first, count, offset, sums] = expect_items<5>(piece);
      tensor.pieces.push_back(
          {file.as_integer(), first.as_integer(), count.as_integer(), offset.as_integer(), sums.as_string()});
    }
  }
  return tensors;
}

void sort_and_check_pieces(StoredTensors& tensors, const std::string& where) {
  constexpr const char* rule = "every element of a tensor must lie in exactly one piece";
  for (auto& [name, tensor] : tensors) {
    std::sort(tensor.pieces.begin(), tensor.pieces.end(),
              [](const StoredPiece& a, const StoredPiece& b) { return a.first < b.first; });
    const std::int64_t elements = tensor.shape.elements();
    std::int64_t covered = 0;
    for (const StoredPiece& piece : tensor.pieces) {
      VITRAIL_EXPECT(piece.count > 0 && piece.first >= 0 && piece.first <= elements - piece.count, ExitCode::checkpoint,
                     text(where, ": a piece of ", piece.count, " elements from ", piece.first, " on of tensor '", name,
                          "' ", tensor.shape.str()),
                     "it lies outside the tensor", "");
      VITRAIL_EXPECT(piece.first <= covered, ExitCode::checkpoint,
                     text(where, ": ", range(covered, piece.first), " of tensor '", name, "' are in no piece"), rule,
                     "");
      VITRAIL_EXPECT(piece.first == covered, ExitCode::checkpoint,
                     text(where, ": ", range(piece.first, std::min(covered, piece.first + piece.count)), " of tensor '",
                          name, "' are in two pieces"),
                     rule, "");
      covered += piece.count;
    }
    VITRAIL_EXPECT(covered == elements, ExitCode::checkpoint,
                   text(where, ": ", range(covered, elements), " of tensor '", name, "' are in no piece"), rule, "");
  }
}

std::string manifest_text(const CheckpointManifest& manifest) {
  Json files = Json::array();
  for (const CheckpointFile& file : manifest.files) {
    files.push_back(Json::array().push_back(file.name).push_back(file.bytes).push_back(file.sum));
  }
  Json json = Json::object()
                  .set("format", kFormat)
                  .set("version", kVersion)
                  .set("step", manifest.info.step)
                  .set("config", manifest.info.config)
                  .set("layout", manifest.info.layout)
                  .set("data", manifest.info.data)
                  .set("block_bytes", manifest.block_bytes)
                  .set("files", std::move(files))
                  .set("tensors", tensors_to_json(manifest.tensors));
  // Printed, read and printed: numbers that JSON has no word for (NaN) are null from the first checksum on.
  json.set("sha256", sha256_of(Json::parse(json.dump(), kManifestName, ExitCode::checkpoint).dump()));
  return in_lines(json) + "\n";
}

CheckpointManifest read_manifest(const std::filesystem::path& folder) {
  const std::string path = (folder / kManifestName).string();
  const Json json = Json::parse(read_file(path, ExitCode::checkpoint), path, ExitCode::checkpoint);
  check_kind(json, path);
  CheckpointManifest manifest;
  manifest.info = {json.at("step").as_integer(), json.at("config"), json.at("layout"), json.at("data")};
  manifest.block_bytes = json.at("block_bytes").as_integer();
  // No element may lie in two blocks.
  VITRAIL_EXPECT(manifest.block_bytes > 0 && manifest.block_bytes % 8 == 0, ExitCode::checkpoint,
                 text("'", path, "': blocks of ", manifest.block_bytes, " bytes"), "they must hold whole elements",
                 kUseAnother);
  manifest.files = files_from_json(json.at("files"));
  manifest.tensors = tensors_from_json(json.at("tensors"));
  sort_and_check_pieces(manifest.tensors, text("'", path, "'"));
  for (const auto& [name, tensor] : manifest.tensors) {
    for (const StoredPiece& piece : tensor.pieces) check_place(manifest, name, tensor.dtype, piece, path);
  }
  return manifest;
}

}  // namespace vitrail
