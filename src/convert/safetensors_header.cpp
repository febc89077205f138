#include "convert/safetensors_header.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <utility>

#include "base/error.hpp"
#include "base/json.hpp"
#include "convert/tensor_list.hpp"

namespace vitrail {

static_assert(std::endian::native == std::endian::little, "files are little endian and are read as they are");

namespace {

constexpr std::string_view kMetadata = "__metadata__";

struct Kind {
  std::string_view name;
  Dtype dtype;
  bool half = false;
};
constexpr std::array<Kind, 7> kKinds{{{"F32", Dtype::f32},
                                      {"F64", Dtype::f64},
                                      {"BF16", Dtype::bf16},
                                      {"I32", Dtype::i32},
                                      {"I64", Dtype::i64},
                                      {"U8", Dtype::u8},
                                      {"F16", Dtype::f32, true}}};

std::string what_of(const std::string& name, const std::string& file) {
  return text("tensor '", name, "' of '", file, "'");
}

Kind kind_of(const std::string& said, const std::string& what) {
  const auto* const found = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& k) { return k.name == said; });
  VITRAIL_EXPECT(found != kKinds.end(), ExitCode::checkpoint, text(what, " has numbers of type '", said, "'"),
                 "only F32, F64, BF16, I32, I64, U8 and F16 are read", "");
  return *found;
}

std::vector<std::int64_t> integers(const Json& array) {
  std::vector<std::int64_t> values;
  for (const Json& item : array.items()) values.push_back(item.as_integer());
  return values;
}

PlacedTensor parse_tensor(const JsonMember& member, const std::string& file, std::int64_t data_bytes) {
  const std::string what = what_of(member.key, file);
  const Kind kind = kind_of(member.value.at("dtype").as_string(), what);
  const std::vector<std::int64_t> lengths = integers(member.value.at("shape"));
  const std::vector<std::int64_t> offsets = integers(member.value.at("data_offsets"));
  const std::int64_t elements = expect_elements(lengths, kind.dtype, what);
  VITRAIL_EXPECT(offsets.size() == 2, ExitCode::checkpoint, text(what, " has ", offsets.size(), " data_offsets"),
                 "a begin and an end are needed", "");
  const std::int64_t begin = offsets[0];
  const std::int64_t end = offsets[1];
  VITRAIL_EXPECT(begin >= 0 && begin <= end && end <= data_bytes, ExitCode::checkpoint,
                 text(what, " cannot lie in bytes ", begin, " .. ", end),
                 text("the file has ", data_bytes, " bytes of data"),
                 "The file is damaged or cut short; fetch it again");
  const std::int64_t wanted = elements * (kind.half ? 2 : size_of(kind.dtype));
  VITRAIL_EXPECT(end - begin == wanted, ExitCode::checkpoint, text(what, " has ", end - begin, " bytes"),
                 text(kind.name, " ", Shape(lengths).str(), " needs ", wanted), "Is the file damaged?");
  return {{member.key, Shape(lengths), kind.dtype}, kind.half, begin, end};
}

/// Tensors in the order of their data: each must begin where the one before ends.
void expect_filled(const std::vector<PlacedTensor>& tensors, const std::string& file, std::int64_t data_bytes) {
  std::int64_t end = 0;
  for (const PlacedTensor& tensor : tensors) {
    VITRAIL_EXPECT(tensor.begin >= end, ExitCode::checkpoint,
                   text(what_of(tensor.info.name, file), " overlaps another one"),
                   text("it begins at byte ", tensor.begin, ", and the one before ends at ", end), "");
    VITRAIL_EXPECT(tensor.begin == end, ExitCode::checkpoint,
                   text("bytes ", end, " .. ", tensor.begin, " of the data of '", file, "' belong to no tensor"),
                   text("'", tensor.info.name, "' is the next one; the format allows no gaps"), "");
    end = tensor.end;
  }
  VITRAIL_EXPECT(end == data_bytes, ExitCode::checkpoint, text("'", file, "' has ", data_bytes, " bytes of data"),
                 text("its tensors end at ", end), "Is the file damaged?");
}

/// A JSON string. Error if the name is not UTF-8, for it could not be read back.
std::string quoted(const std::string& name, const std::string& file) {
  std::string written = Json(name).dump();
  VITRAIL_EXPECT(Json::parse(written, file, ExitCode::checkpoint).as_string() == name, ExitCode::checkpoint,
                 text("the name ", written, " cannot be written into '", file, "'"), "it is not UTF-8", "");
  return written;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& file, std::int64_t data_bytes) {
  const Json parsed = Json::parse(json, file, ExitCode::checkpoint);
  SafetensorsHeader header;
  for (const JsonMember& member : parsed.members()) {
    if (member.key == kMetadata) {
      for (const JsonMember& one : member.value.members()) header.metadata[one.key] = one.value.as_string();
    } else {
      header.tensors.push_back(parse_tensor(member, file, data_bytes));
    }
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const PlacedTensor& a, const PlacedTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  expect_filled(header.tensors, file, data_bytes);
  return header;
}

std::vector<PlacedTensor> place_tensors(std::span<const TensorInfo> tensors, const std::string& file) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return size_of(tensors[a].dtype) > size_of(tensors[b].dtype); });
  std::vector<PlacedTensor> placed(tensors.size());
  std::int64_t end = 0;
  for (const std::size_t i : order) {
    const std::int64_t bytes =
        expect_elements(tensors[i].shape.lengths(), tensors[i].dtype, what_of(tensors[i].name, file)) *
        size_of(tensors[i].dtype);
    placed[i] = {tensors[i], false, end, end + bytes};
    end += bytes;
  }
  return placed;
}

std::string safetensors_header(const SafetensorsHeader& header, const std::string& file) {
  std::string json = "{";
  if (!header.metadata.empty()) {
    json += text('"', kMetadata, "\":{");
    for (const auto& [key, value] : header.metadata) json += quoted(key, file) + ":" + quoted(value, file) + ",";
    json.back() = '}';
    json += ',';
  }
  for (const PlacedTensor& tensor : header.tensors) {
    const auto* const kind =
        std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& k) { return k.dtype == tensor.info.dtype; });
    VITRAIL_EXPECT(kind != kKinds.end() && tensor.info.name != kMetadata, ExitCode::checkpoint,
                   text(what_of(tensor.info.name, file), " of ", name_of(tensor.info.dtype), " cannot be written"),
                   "only f32, f64, bf16, i32, i64 and u8 are, and no tensor is called __metadata__", "");
    std::string shape;
    for (const std::int64_t length : tensor.info.shape.lengths()) shape += (shape.empty() ? "" : ",") + text(length);
    json += text(quoted(tensor.info.name, file), ":{\"dtype\":\"", kind->name, "\",\"shape\":[", shape,
                 "],\"data_offsets\":[", tensor.begin, ",", tensor.end, "]},");
  }
  if (json.back() == ',') json.pop_back();
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  VITRAIL_EXPECT(static_cast<std::int64_t>(json.size()) <= kLongestSafetensorsHeader, ExitCode::checkpoint,
                 text("'", file, "' would need a header of ", json.size(), " bytes"),
                 text("at most ", kLongestSafetensorsHeader, " are read"), "Write several files");
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(json.size() >> (8 * i) & 0xFF);
  return bytes + json;
}

}  // namespace vitrail
