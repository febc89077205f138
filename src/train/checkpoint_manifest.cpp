#include "train/checkpoint_manifest.hpp"

#include <algorithm>
#include <array>

#include "base/file.hpp"
#include "base/sha256.hpp"

namespace vitrail {

namespace {

constexpr const char* kFormat = "vitrail checkpoint";
constexpr std::int64_t kVersion = 1;
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

std::vector<CheckpointFile> files_from_json(const Json& json) {
  std::vector<CheckpointFile> files;
  for (const Json& entry : json.items()) {
    files.push_back({entry.at("name").as_string(), entry.at("bytes").as_integer(), entry.at("sha256").as_string()});
    const std::string& name = files.back().name;
    VITRAIL_EXPECT(!name.empty() && name.find('/') == std::string::npos, ExitCode::checkpoint,
                   text("the checkpoint's file name '", name, "'"), "it must be a file in the checkpoint's own folder",
                   kUseAnother);
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

}  // namespace

Json tensors_to_json(const StoredTensors& tensors) {
  Json json = Json::object();
  for (const auto& [name, tensor] : tensors) {
    Json pieces = Json::array();
    for (const StoredPiece& piece : tensor.pieces) {
      pieces.push_back(Json::object()
                           .set("file", piece.file)
                           .set("dataset", piece.dataset)
                           .set("first", piece.first)
                           .set("count", piece.count));
    }
    json.set(name, Json::object()
                       .set("shape", shape_to_json(tensor.shape))
                       .set("dtype", name_of(tensor.dtype))
                       .set("pieces", std::move(pieces)));
  }
  return json;
}

StoredTensors tensors_from_json(const Json& json) {
  StoredTensors tensors;
  for (const JsonMember& member : json.members()) {
    StoredTensor& tensor = tensors[member.key];
    tensor.shape = shape_from_json(member.value.at("shape"), member.key);
    tensor.dtype = dtype_from_json(member.value.at("dtype"), member.key);
    for (const Json& piece : member.value.at("pieces").items()) {
      tensor.pieces.push_back({piece.at("file").as_integer(), piece.at("dataset").as_string(),
                               piece.at("first").as_integer(), piece.at("count").as_integer()});
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
    files.push_back(Json::object().set("name", file.name).set("bytes", file.bytes).set("sha256", file.sha256));
  }
  Json json = Json::object()
                  .set("format", kFormat)
                  .set("version", kVersion)
                  .set("step", manifest.info.step)
                  .set("config", manifest.info.config)
                  .set("layout", manifest.info.layout)
                  .set("files", std::move(files))
                  .set("tensors", tensors_to_json(manifest.tensors));
  // Printed, read and printed: numbers that JSON has no word for (NaN) are null from the first checksum on.
  json.set("sha256", sha256_of(Json::parse(json.dump(), kManifestName, ExitCode::checkpoint).dump()));
  return json.dump(1) + "\n";
}

CheckpointManifest read_manifest(const std::filesystem::path& folder) {
  const std::string path = (folder / kManifestName).string();
  const Json json = Json::parse(read_file(path, ExitCode::checkpoint), path, ExitCode::checkpoint);
  check_kind(json, path);
  CheckpointManifest manifest;
  manifest.info = {json.at("step").as_integer(), json.at("config"), json.at("layout")};
  manifest.files = files_from_json(json.at("files"));
  manifest.tensors = tensors_from_json(json.at("tensors"));
  const auto files = static_cast<std::int64_t>(manifest.files.size());
  for (const auto& [name, tensor] : manifest.tensors) {
    for (const StoredPiece& piece : tensor.pieces) {
      VITRAIL_EXPECT(piece.file >= 0 && piece.file < files, ExitCode::checkpoint,
                     text("'", path, "': tensor '", name, "' has a piece in file ", piece.file),
                     text("the checkpoint has ", files, " files"), kUseAnother);
    }
  }
  sort_and_check_pieces(manifest.tensors, text("'", path, "'"));
  return manifest;
}

}  // namespace vitrail
