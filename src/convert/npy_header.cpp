#include "convert/npy_header.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "convert/tensor_list.hpp"

namespace vitrail {

namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
/// NumPy's own headers have some hundred bytes.
constexpr std::uint32_t kLongestHeader = 1U << 16;
constexpr std::size_t kAlignment = 64;

struct Fields {
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;
};

/// Reads the few Python literals of a header: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class Literals {
 public:
  Literals(std::string_view text, const std::string& what) : left_(text), what_(what) {}

  Fields dictionary() {
    Fields fields;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr") {
        once(fields.descr.has_value(), key);
        fields.descr = string();
      } else if (key == "fortran_order") {
        once(fields.fortran_order.has_value(), key);
        fields.fortran_order = boolean();
      } else if (key == "shape") {
        once(fields.shape.has_value(), key);
        fields.shape = tuple();
      } else {
        wrong("it has a field '" + key + "'");
      }
      if (!accept(',') && peek() != '}') wrong("a comma is missing");
    }
    skip_blanks();
    if (!left_.empty()) wrong("something follows its dictionary");
    return fields;
  }

 private:
  [[noreturn]] void wrong(const std::string& why) const {
    fail(ExitCode::checkpoint, {what_ + " has no .npy header that can be read", why, "Is the file damaged?"});
  }
  void once(bool seen, const std::string& key) const {
    if (seen) wrong("it has '" + key + "' twice");
  }
  void skip_blanks() {
    while (!left_.empty() && (left_.front() == ' ' || left_.front() == '\n' || left_.front() == '\t')) {
      left_.remove_prefix(1);
    }
  }
  /// The next character that is not blank; 0 at the end.
  char peek() {
    skip_blanks();
    return left_.empty() ? '\0' : left_.front();
  }
  bool accept(char wanted) {
    if (left_.empty() || peek() != wanted) return false;
    left_.remove_prefix(1);
    return true;
  }
  void expect(char wanted) {
    if (!accept(wanted)) wrong(text("'", wanted, "' is expected"));
  }
  bool accept_word(std::string_view word) {
    skip_blanks();
    if (left_.substr(0, word.size()) != word) return false;
    left_.remove_prefix(word.size());
    return true;
  }

  std::string string() {
    const char quote = peek();
    if (quote == '[') wrong("it describes records, not numbers");
    if (quote != '\'' && quote != '"') wrong("a string is expected");
    const std::size_t end = left_.find(quote, 1);
    if (end == std::string_view::npos) wrong("a string does not end");
    std::string said(left_.substr(1, end - 1));
    left_.remove_prefix(end + 1);
    return said;
  }
  bool boolean() {
    if (accept_word("True")) return true;
    if (!accept_word("False")) wrong("True or False is expected");
    return false;
  }
  std::int64_t integer() {
    skip_blanks();
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(left_.data(), left_.data() + left_.size(), value);
    if (error != std::errc()) wrong("a whole number is expected");
    left_.remove_prefix(static_cast<std::size_t>(end - left_.data()));
    accept('L');  // Python 2
    return value;
  }
  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> values;
    expect('(');
    while (!accept(')')) {
      values.push_back(integer());
      if (!accept(',') && peek() != ')') wrong("a comma is missing");
    }
    return values;
  }

  std::string_view left_;
  const std::string& what_;
};

struct Kind {
  std::string_view descr;
  Dtype dtype;
  bool half = false;
};
/// The first of a dtype is written.
constexpr std::array<Kind, 12> kKinds{{{"<f4", Dtype::f32},
                                       {"<f8", Dtype::f64},
                                       {"|V2", Dtype::bf16},
                                       {"<i4", Dtype::i32},
                                       {"<i8", Dtype::i64},
                                       {"|u1", Dtype::u8},
                                       {"<f2", Dtype::f32, true},
                                       {"<V2", Dtype::bf16},
                                       {"V2", Dtype::bf16},
                                       {"bfloat16", Dtype::bf16},
                                       {"<u1", Dtype::u8},
                                       {"u1", Dtype::u8}}};

Kind kind_of(const std::string& descr, const std::string& what) {
  const auto* const found =
      std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& kind) { return kind.descr == descr; });
  if (found != kKinds.end()) return *found;
  VITRAIL_EXPECT(descr.empty() || descr.front() != '>', ExitCode::checkpoint,
                 text(what, " has numbers of type '", descr, "'"), "they are big endian",
                 "Convert it in NumPy: array.astype(array.dtype.newbyteorder('<'))");
  fail(ExitCode::checkpoint, {text(what, " has numbers of type '", descr, "'"),
                              "only f4, f8, i4, i8, u1, f2 and bfloat16 (V2) in little endian are read", ""});
}

/// Where the dictionary begins and ends.
struct Extent {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

Extent read_extent(const NpyBytes& read, std::int64_t file_bytes, const std::string& what) {
  const auto expect_room = [&](std::int64_t bytes) {
    VITRAIL_EXPECT(file_bytes >= bytes, ExitCode::checkpoint, text(what, " is not a .npy file"),
                   text("it has only ", file_bytes, " bytes"), "Is the file damaged?");
  };
  std::array<unsigned char, 12> start{};
  expect_room(10);
  read(0, start.data(), 10);
  VITRAIL_EXPECT(std::equal(kMagic.begin(), kMagic.end(), start.begin(),
                            [](char a, unsigned char b) { return static_cast<unsigned char>(a) == b; }),
                 ExitCode::checkpoint, text(what, " is not a .npy file"), "it does not begin with \\x93NUMPY",
                 "Only arrays can be read");
  const int version = start[6];
  VITRAIL_EXPECT(version >= 1 && version <= 3, ExitCode::checkpoint, text(what, " is a .npy file of version ", version),
                 "versions 1 to 3 are read", "");
  std::uint32_t length = start[8] | static_cast<std::uint32_t>(start[9]) << 8;
  std::int64_t begin = 10;
  if (version > 1) {
    expect_room(12);
    read(10, start.data() + 10, 2);
    length |= static_cast<std::uint32_t>(start[10]) << 16 | static_cast<std::uint32_t>(start[11]) << 24;
    begin = 12;
  }
  VITRAIL_EXPECT(length <= kLongestHeader, ExitCode::checkpoint, text(what, " has a .npy header of ", length, " bytes"),
                 text("at most ", kLongestHeader, " are read"), "Is the file damaged?");
  expect_room(begin + length);
  return {begin, begin + length};
}

}  // namespace

NpyHeader read_npy_header(const NpyBytes& read, std::int64_t file_bytes, const std::string& what) {
  const Extent extent = read_extent(read, file_bytes, what);
  std::string dictionary(static_cast<std::size_t>(extent.end - extent.begin), '\0');
  read(extent.begin, dictionary.data(), extent.end - extent.begin);
  const Fields fields = Literals(dictionary, what).dictionary();
  VITRAIL_EXPECT(fields.descr && fields.fortran_order && fields.shape, ExitCode::checkpoint,
                 text(what, " has no .npy header that can be read"), "descr, fortran_order or shape is missing",
                 "Is the file damaged?");
  const Kind kind = kind_of(*fields.descr, what);
  const std::int64_t elements = expect_elements(*fields.shape, kind.dtype, what);
  const auto long_axes = std::count_if(fields.shape->begin(), fields.shape->end(), [](auto n) { return n > 1; });
  VITRAIL_EXPECT(!*fields.fortran_order || long_axes < 2 || elements == 0, ExitCode::checkpoint,
                 text(what, " is stored column by column (Fortran order)"), "only row by row (C order) is read",
                 "Save it from NumPy as numpy.ascontiguousarray(array)");
  const std::int64_t stored_bytes = elements * (kind.half ? 2 : size_of(kind.dtype));
  const Shape shape(*fields.shape);
  VITRAIL_EXPECT(file_bytes - extent.end == stored_bytes, ExitCode::checkpoint,
                 text(what, " has ", file_bytes - extent.end, " bytes of data"),
                 text("its header promises ", stored_bytes, ": '", *fields.descr, "' ", shape.str()),
                 "Is the file damaged?");
  return {shape, kind.dtype, kind.half, extent.end};
}

std::string npy_header(const TensorInfo& tensor) {
  const auto* const kind =
      std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& one) { return one.dtype == tensor.dtype; });
  VITRAIL_EXPECT(kind != kKinds.end(), ExitCode::checkpoint,
                 text("tensor '", tensor.name, "' of ", name_of(tensor.dtype), " cannot be written as .npy"),
                 "only f32, f64, bf16, i32, i64 and u8 are", "");
  std::string tuple = "(";
  for (const std::int64_t length : tensor.shape.lengths()) tuple += std::to_string(length) + ", ";
  if (tensor.shape.axes() == 1) tuple.pop_back();              // (3,)
  if (tensor.shape.axes() > 1) tuple.erase(tuple.size() - 2);  // (3, 4)
  tuple += ")";
  std::string dictionary = text("{'descr': '", kind->descr, "', 'fortran_order': False, 'shape': ", tuple, ", }");
  const std::size_t before = kMagic.size() + 4;
  while ((before + dictionary.size() + 1) % kAlignment != 0) dictionary += ' ';
  dictionary += '\n';
  std::string header(kMagic);
  header += {'\x01', '\x00', static_cast<char>(dictionary.size() & 0xFF), static_cast<char>(dictionary.size() >> 8)};
  return header + dictionary;
}

}  // namespace vitrail
