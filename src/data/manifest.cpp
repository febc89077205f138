// manifest.json: the part of shard.hpp that is text.

#include <set>

#include "base/file.hpp"
#include "base/json.hpp"
#include "data/shard.hpp"

namespace vitrail {

namespace {

constexpr char kFormat[] = "vitrail-dataset-1";
constexpr char kRemedy[] = "Pack the dataset again with vitrail-pack";

ImageShape image_shape_of(const Json& json, const std::string& where) {
  const std::vector<Json>& extents = json.items();
  VITRAIL_EXPECT(extents.size() == 3, ExitCode::data, where + ": the image shape has not 3 numbers",
                 "they are height, width and channels", kRemedy);
  const ImageShape shape{extents[0].as_integer(), extents[1].as_integer(), extents[2].as_integer()};
  VITRAIL_EXPECT(shape.height > 0 && shape.width > 0 && shape.channels > 0, ExitCode::data,
                 where + ": an empty image shape", "height, width and channels are at least 1", kRemedy);
  return shape;
}

ShardEntry shard_of(const Json& json, const std::string& where) {
  ShardEntry shard{json.at("file").as_string(), json.at("images").as_integer(), json.at("bytes").as_integer(),
                   json.at("sha256").as_string()};
  VITRAIL_EXPECT(!shard.file.empty() && std::filesystem::path(shard.file).filename() == shard.file, ExitCode::data,
                 where + ": the shard name '" + shard.file + "'", "shards lie beside their manifest", kRemedy);
  VITRAIL_EXPECT(shard.images >= 0, ExitCode::data,
                 text(where, ": shard ", shard.file, " with ", shard.images, " images"), "that is less than none",
                 kRemedy);
  return shard;
}

void expect_consistent(const Manifest& manifest, const std::string& where) {
  std::int64_t images = 0;
  std::set<std::string> files;
  for (const ShardEntry& shard : manifest.shards) {
    images += shard.images;
    VITRAIL_EXPECT(files.insert(shard.file).second, ExitCode::data, text(where, " names ", shard.file, " twice"),
                   "a shard belongs to a dataset once", kRemedy);
  }
  VITRAIL_EXPECT(images == manifest.images, ExitCode::data, text(where, " states ", manifest.images, " images"),
                 text("its shards have ", images, " together"), kRemedy);
  VITRAIL_EXPECT(manifest.images > 0, ExitCode::data, where + " states no images", "there is nothing to read", kRemedy);
  VITRAIL_EXPECT(manifest.classes >= 1, ExitCode::data, text(where, " states ", manifest.classes, " classes"),
                 "there is at least one", kRemedy);
  VITRAIL_EXPECT(manifest.labels_per_image >= 1 && manifest.labels_per_image <= manifest.classes, ExitCode::data,
                 text(where, " states ", manifest.labels_per_image, " labels per image"),
                 text("with ", manifest.classes, " classes, an image has 1 to ", manifest.classes), kRemedy);
  const std::size_t names = manifest.class_names.size();
  VITRAIL_EXPECT(names == 0 || static_cast<std::int64_t>(names) == manifest.classes, ExitCode::data,
                 text(where, " names ", names, " classes"), text("it states ", manifest.classes, " classes"), kRemedy);
}

}  // namespace

Manifest Manifest::read(const std::filesystem::path& folder) {
  const std::string where = (folder / "manifest.json").string();
  const Json json = Json::parse(read_file(where, ExitCode::data), where, ExitCode::data);
  const std::string& format = json.at("format").as_string();
  VITRAIL_EXPECT(format == kFormat, ExitCode::data, text("'", where, "' has the format '", format, "'"),
                 text("this version reads '", kFormat, "'"), kRemedy);
  Manifest manifest;
  manifest.name = json.at("name").as_string();
  manifest.images = json.at("images").as_integer();
  manifest.classes = json.at("classes").as_integer();
  manifest.image = image_shape_of(json.at("image_shape"), where);
  if (const Json* labels = json.find("labels_per_image")) manifest.labels_per_image = labels->as_integer();
  if (const Json* names = json.find("class_names")) {
    for (const Json& name : names->items()) manifest.class_names.push_back(name.as_string());
  }
  for (const Json& shard : json.at("shards").items()) manifest.shards.push_back(shard_of(shard, where));
  expect_consistent(manifest, where);
  return manifest;
}

void Manifest::write(const std::filesystem::path& folder) const {
  Json json;
  json.set("format", kFormat).set("name", name).set("images", images).set("classes", classes);
  json.set("image_shape", Json::array().push_back(image.height).push_back(image.width).push_back(image.channels));
  if (labels_per_image > 1) json.set("labels_per_image", labels_per_image);
  Json names = Json::array();
  for (const std::string& one : class_names) names.push_back(one);
  if (!class_names.empty()) json.set("class_names", names);
  Json list = Json::array();
  for (const ShardEntry& shard : shards) {
    Json entry;
    entry.set("file", shard.file).set("images", shard.images).set("bytes", shard.bytes).set("sha256", shard.sha256);
    list.push_back(entry);
  }
  json.set("shards", list);
  write_file_atomically(folder / "manifest.json", json.dump(2) + "\n", ExitCode::data);
}

}  // namespace vitrail
