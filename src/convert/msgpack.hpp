#pragma once
// MessagePack files as trees, and the bytes of MessagePack values. The format: github.com/msgpack/msgpack, spec.md.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace vitrail {

/// A value and what is in it. What may be long (strings, binary and extension data) is not copied: the views point into
/// the parsed bytes.
struct MsgpackValue {
  enum class Kind : std::uint8_t { nil, boolean, integer, real, string, binary, extension, array, map };

  Kind kind = Kind::nil;
  std::int8_t extension_type = 0;
  std::int64_t integer = 0;         ///< of an integer; 0 or 1 of a boolean
  double real = 0;                  ///< of a real
  std::string_view bytes;           ///< of a string, of binary data, of an extension without its type
  std::vector<MsgpackValue> items;  ///< of an array; of a map: key, value, key, value, ...

  /// The value of a key of a map; null when it has none or is no map.
  [[nodiscard]] const MsgpackValue* find(std::string_view key) const noexcept;
  [[nodiscard]] bool is(Kind other) const noexcept { return kind == other; }
};

/// "an integer", "a map", ... for messages.
std::string_view name_of(MsgpackValue::Kind kind);

/// Exactly one value. `where` names the bytes in messages ("'ckpt.index'"). `progress` is called about every 16 MiB.
/// Error (checkpoint) when the bytes are damaged, end early or go on behind the value, and for what no checkpoint has:
/// more than 64 levels, more than 2^21 values, integers beyond 63 bits.
MsgpackValue parse_msgpack(std::string_view bytes, const std::string& where,
                           const std::function<void()>& progress = {});

/// Appends values to bytes(); every number and length in the shortest form.
class MsgpackWriter {
 public:
  void nil();
  void boolean(bool value);
  void integer(std::int64_t value);
  void string(std::string_view value);
  void binary(std::string_view value);
  void extension(std::int8_t type, std::string_view value);
  /// What stands in front of as many items, pairs or bytes; these are the caller's to append. Lengths below 2^32.
  void array(std::int64_t items);
  void map(std::int64_t pairs);
  void binary_header(std::int64_t bytes);
  void extension_header(std::int8_t type, std::int64_t bytes);

  [[nodiscard]] const std::string& bytes() const noexcept { return bytes_; }
  /// bytes(), and starts anew.
  std::string take();

 private:
  std::string bytes_;
};

}  // namespace vitrail
