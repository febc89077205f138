#include "convert/msgpack.hpp"

#include <limits>
#include <utility>

#define MSGPACK_NO_BOOST
#include <msgpack.hpp>

#include "base/error.hpp"

namespace vitrail {

namespace {

using Kind = MsgpackValue::Kind;

constexpr std::size_t kDeepest = 64;
constexpr std::int64_t kMostValues = std::int64_t{1} << 21;
constexpr std::size_t kStride = std::size_t{1} << 24;

/// Takes the library's calls, one per value, and builds the tree. The library keeps its own stack on the heap, so that
/// depth is limited here alone.
class TreeBuilder : public ::msgpack::null_visitor {
 public:
  TreeBuilder(std::string_view bytes, const std::string& where, const std::function<void()>& progress)
      : bytes_(bytes), where_(where), progress_(progress) {}

  bool visit_nil() { return add(Kind::nil); }
  bool visit_boolean(bool value) {
    add(Kind::boolean);
    last_->integer = value ? 1 : 0;
    return true;
  }
  bool visit_positive_integer(std::uint64_t value) {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      refuse(text("the integer ", value), "no number of a checkpoint is beyond 63 bits");
    }
    return visit_negative_integer(static_cast<std::int64_t>(value));
  }
  bool visit_negative_integer(std::int64_t value) {
    add(Kind::integer);
    last_->integer = value;
    return true;
  }
  bool visit_float32(float value) { return visit_float64(value); }
  bool visit_float64(double value) {
    add(Kind::real);
    last_->real = value;
    return true;
  }
  bool visit_str(const char* data, std::uint32_t size) { return add_bytes(Kind::string, data, size); }
  bool visit_bin(const char* data, std::uint32_t size) { return add_bytes(Kind::binary, data, size); }
  bool visit_ext(const char* data, std::uint32_t size) {
    if (size == 0) refuse("an extension of 4 GiB", "lengths have 32 bits");  // its length overflowed
    add_bytes(Kind::extension, data + 1, size - 1);
    last_->extension_type = static_cast<std::int8_t>(*data);
    return true;
  }
  bool start_array(std::uint32_t items) { return open(Kind::array, items); }
  bool start_map(std::uint32_t pairs) { return open(Kind::map, pairs); }
  bool end_array() { return close(); }
  bool end_map() { return close(); }

  [[nodiscard]] MsgpackValue& root() noexcept { return root_; }

  [[noreturn]] void refuse(const std::string& what, const std::string& why) const {
    fail(ExitCode::checkpoint, {text(where_, " has ", what), why, "It is damaged, or no checkpoint"});
  }

 private:
  bool add(Kind kind) {
    if (++values_ > kMostValues) refuse(text("more than ", kMostValues, " values"), "no checkpoint has so many");
    if (open_.empty()) {
      last_ = &root_;
    } else {
      last_ = &open_.back()->items.emplace_back();
    }
    last_->kind = kind;
    return true;
  }

  bool add_bytes(Kind kind, const char* data, std::uint32_t size) {
    add(kind);
    if (size == 0) return true;  // the library may give no address
    last_->bytes = {data, size};
    const auto at = static_cast<std::size_t>(data - bytes_.data());
    if (progress_ && at > seen_ + kStride) {
      seen_ = at;
      progress_();
    }
    return true;
  }

  /// The parent does not grow before close(), so that its last item stays where it is.
  bool open(Kind kind, std::uint32_t length) {
    if (open_.size() >= kDeepest) refuse(text("more than ", kDeepest, " levels"), "no checkpoint is so deep");
    if (length > bytes_.size()) refuse(text("a list of ", length, " items"), "they would be longer than all of it");
    add(kind);
    open_.push_back(last_);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view bytes_;
  const std::string& where_;
  const std::function<void()>& progress_;
  MsgpackValue root_;
  MsgpackValue* last_ = nullptr;
  std::vector<MsgpackValue*> open_;
  std::int64_t values_ = 0;
  std::size_t seen_ = 0;
};

/// Appends what the library packs.
struct StringStream {
  std::string& bytes;
  void write(const char* data, std::size_t size) { bytes.append(data, size); }
};

::msgpack::packer<StringStream> packer_to(StringStream& stream) { return ::msgpack::packer<StringStream>(stream); }

std::uint32_t length_of(std::int64_t length) {
  VITRAIL_EXPECT(length >= 0 && length < std::int64_t{1} << 32, ExitCode::checkpoint,
                 text("a MessagePack value of length ", length), "lengths have 32 bits", "");
  return static_cast<std::uint32_t>(length);
}

}  // namespace

const MsgpackValue* MsgpackValue::find(std::string_view key) const noexcept {
  if (kind != Kind::map) return nullptr;
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    if (items[i].kind == Kind::string && items[i].bytes == key) return &items[i + 1];
  }
  return nullptr;
}

std::string_view name_of(MsgpackValue::Kind kind) {
  switch (kind) {
    case Kind::nil:
      return "nil";
    case Kind::boolean:
      return "a boolean";
    case Kind::integer:
      return "an integer";
    case Kind::real:
      return "a real number";
    case Kind::string:
      return "a string";
    case Kind::binary:
      return "binary data";
    case Kind::extension:
      return "an extension";
    case Kind::array:
      return "an array";
    case Kind::map:
      return "a map";
  }
  return "?";
}

MsgpackValue parse_msgpack(std::string_view bytes, const std::string& where, const std::function<void()>& progress) {
  TreeBuilder builder(bytes, where, progress);
  std::size_t end = 0;
  bool whole = false;
  try {
    whole = !bytes.empty() && ::msgpack::parse(bytes.data(), bytes.size(), end, builder);
  } catch (const ::msgpack::unpack_error& error) {
    builder.refuse("damaged bytes", error.what());
  }
  if (!whole)
    builder.refuse(text("no whole MessagePack value in its ", bytes.size(), " bytes"),
                   text("reading stopped at byte ", end));
  if (end != bytes.size()) {
    builder.refuse(text(bytes.size() - end, " bytes too many"), text("its value ends at byte ", end));
  }
  return std::move(builder.root());
}

void MsgpackWriter::nil() {
  StringStream stream{bytes_};
  packer_to(stream).pack_nil();
}

void MsgpackWriter::boolean(bool value) {
  StringStream stream{bytes_};
  value ? packer_to(stream).pack_true() : packer_to(stream).pack_false();
}

void MsgpackWriter::integer(std::int64_t value) {
  StringStream stream{bytes_};
  packer_to(stream).pack_int64(value);
}

void MsgpackWriter::string(std::string_view value) {
  StringStream stream{bytes_};
  const std::uint32_t length = length_of(std::ssize(value));
  packer_to(stream).pack_str(length).pack_str_body(value.data(), length);
}

void MsgpackWriter::binary(std::string_view value) {
  binary_header(std::ssize(value));
  bytes_ += value;
}

void MsgpackWriter::extension(std::int8_t type, std::string_view value) {
  extension_header(type, std::ssize(value));
  bytes_ += value;
}

void MsgpackWriter::array(std::int64_t items) {
  StringStream stream{bytes_};
  packer_to(stream).pack_array(length_of(items));
}

void MsgpackWriter::map(std::int64_t pairs) {
  StringStream stream{bytes_};
  packer_to(stream).pack_map(length_of(pairs));
}

void MsgpackWriter::binary_header(std::int64_t bytes) {
  StringStream stream{bytes_};
  packer_to(stream).pack_bin(length_of(bytes));
}

void MsgpackWriter::extension_header(std::int8_t type, std::int64_t bytes) {
  StringStream stream{bytes_};
  packer_to(stream).pack_ext(length_of(bytes), type);
}

std::string MsgpackWriter::take() { return std::exchange(bytes_, {}); }

}  // namespace vitrail
