#pragma once
// JSON values: configurations, manifests, metrics. The parser behind it (nlohmann) is seen by json.cpp alone.
//
// A parsed value knows where it came from, so that an accessor's Error says "'manifest.json' at /shards/3/images: ...",
// and fails with the exit code that was given to parse(). Members keep the order in which they were set.

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/error.hpp"

namespace vitrail {

struct JsonMember;

class Json {
 public:
  Json() = default;  ///< null
  Json(bool value);
  Json(int value);
  Json(std::int64_t value);
  Json(double value);  ///< NaN and infinities are written as null: JSON has no word for them
  Json(std::string value);
  Json(std::string_view value);
  Json(const char* value);
  Json(std::vector<Json> items);
  static Json array();
  static Json object();

  /// Parses one document. `source` names it in messages: a path, or "attribute 'config'". An object with two members of
  /// one name, and more than 100 levels, are an Error too.
  static Json parse(std::string_view text, const std::string& source, ExitCode code);
  /// On one line, or with `indent` spaces per level. Reals are written so that they read back as the same bits.
  [[nodiscard]] std::string dump(int indent = -1) const;

  [[nodiscard]] bool is_null() const noexcept { return std::holds_alternative<std::monostate>(value_); }
  [[nodiscard]] bool is_boolean() const noexcept { return std::holds_alternative<bool>(value_); }
  [[nodiscard]] bool is_integer() const noexcept { return std::holds_alternative<std::int64_t>(value_); }
  /// An integer is a number too.
  [[nodiscard]] bool is_number() const noexcept { return is_integer() || std::holds_alternative<double>(value_); }
  [[nodiscard]] bool is_string() const noexcept { return std::holds_alternative<std::string>(value_); }
  [[nodiscard]] bool is_array() const noexcept { return std::holds_alternative<std::vector<Json>>(value_); }
  [[nodiscard]] bool is_object() const noexcept { return std::holds_alternative<std::vector<JsonMember>>(value_); }

  /// The value; an Error if it is of another kind.
  [[nodiscard]] bool as_bool() const;
  [[nodiscard]] std::int64_t as_integer() const;
  [[nodiscard]] double as_real() const;
  [[nodiscard]] const std::string& as_string() const;
  [[nodiscard]] const std::vector<Json>& items() const;
  [[nodiscard]] const std::vector<JsonMember>& members() const;

  /// A member of an object. at(): an Error if it is missing; find(): nullptr.
  [[nodiscard]] const Json& at(std::string_view key) const;
  [[nodiscard]] const Json* find(std::string_view key) const;
  [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }

  /// Sets or replaces a member of an object (null becomes an object). Returns *this, so that calls can be chained.
  Json& set(std::string_view key, Json value);
  /// Appends to an array (null becomes an array).
  Json& push_back(Json value);

  /// Same kinds, same values, same order of members; where they came from does not matter.
  friend bool operator==(const Json& a, const Json& b);

 private:
  friend class JsonBuilder;
  [[noreturn]] void wrong_kind(std::string_view wanted) const;
  void remember_origin(const std::string& where, const std::string& pointer, ExitCode code);

  std::variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<Json>, std::vector<JsonMember>>
      value_;
  std::string where_;
  ExitCode code_ = ExitCode::other;
};

struct JsonMember {
  std::string key;
  Json value;
};

// Here, not in the class: a constructor that may throw needs ~vector<JsonMember>, so JsonMember must be complete.
inline Json::Json(bool value) : value_(value) {}
inline Json::Json(int value) : value_(std::int64_t{value}) {}
inline Json::Json(std::int64_t value) : value_(value) {}
inline Json::Json(double value) : value_(value) {}
inline Json::Json(std::string value) : value_(std::move(value)) {}
inline Json::Json(std::string_view value) : value_(std::string(value)) {}
inline Json::Json(const char* value) : value_(std::string(value)) {}
inline Json::Json(std::vector<Json> items) : value_(std::move(items)) {}
inline Json Json::array() { return {std::vector<Json>()}; }

}  // namespace vitrail
