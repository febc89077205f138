#include "base/json.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

namespace vitrail {

namespace {

using Parsed = nlohmann::ordered_json;

constexpr std::size_t kDeepest = 100;

Parsed to_parsed(const Json& json) {
  if (json.is_boolean()) return json.as_bool();
  if (json.is_integer()) return json.as_integer();
  if (json.is_number()) return json.as_real();
  if (json.is_string()) return json.as_string();
  if (json.is_array()) {
    Parsed array = Parsed::array();
    for (const Json& item : json.items()) array.push_back(to_parsed(item));
    return array;
  }
  if (json.is_object()) {
    Parsed object = Parsed::object();
    for (const JsonMember& member : json.members()) object[member.key] = to_parsed(member.value);
    return object;
  }
  return nullptr;
}

}  // namespace

/// Builds the value while the text is read: members in order, each name once. Its time is that of the text's length,
/// and it refuses what is nested so deeply that recursion over it would be a danger.
class JsonBuilder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  [[nodiscard]] Json take() { return std::move(root_); }
  /// Why a call returned false.
  [[nodiscard]] const std::string& refusal() const noexcept { return refusal_; }

  bool null() override { return place({}); }
  bool boolean(bool value) override { return place(value); }
  bool number_integer(std::int64_t value) override { return place(value); }
  bool number_unsigned(std::uint64_t value) override {
    return place(std::in_range<std::int64_t>(value) ? Json(static_cast<std::int64_t>(value))
                                                    : Json(static_cast<double>(value)));
  }
  bool number_float(double value, const std::string& /*written*/) override { return place(value); }
  bool string(std::string& value) override { return place(std::move(value)); }
  bool binary(nlohmann::json::binary_t& /*value*/) override { return false; }
  bool start_object(std::size_t /*size*/) override { return open(Json::object()); }
  bool start_array(std::size_t /*size*/) override { return open(Json::array()); }
  bool key(std::string& name) override {
    open_.back().key = std::move(name);
    return true;
  }
  bool end_object() override { return names_differ(open_.back().value) && close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::detail::exception& failure) override {
    const std::string said = failure.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const std::size_t bracket = said.find("] ");
    return refuse(bracket == std::string::npos ? said : said.substr(bracket + 2));
  }

 private:
  struct Open {
    Json value;
    std::string key;  ///< of the member that comes next
  };

  bool refuse(std::string why) {
    refusal_ = std::move(why);
    return false;
  }
  bool place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Open& outer = open_.back(); outer.value.is_array()) {
      std::get<std::vector<Json>>(outer.value.value_).push_back(std::move(value));
    } else {
      std::get<std::vector<JsonMember>>(outer.value.value_).push_back({std::move(outer.key), std::move(value)});
    }
    return true;
  }
  bool open(Json empty) {
    if (open_.size() == kDeepest) return refuse(text("it is nested more than ", kDeepest, " levels deep"));
    open_.push_back({std::move(empty), ""});
    return true;
  }
  bool close() {
    Json value = std::move(open_.back().value);
    open_.pop_back();
    return place(std::move(value));
  }
  bool names_differ(const Json& object) {
    std::vector<std::string_view> names;
    for (const JsonMember& member : object.members()) names.push_back(member.key);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    return twice == names.end() || refuse(text("an object has '", *twice, "' twice"));
  }

  Json root_;
  std::vector<Open> open_;
  std::string refusal_;
};

Json Json::object() {
  Json made;
  made.value_ = std::vector<JsonMember>();
  return made;
}

Json Json::parse(std::string_view text, const std::string& source, ExitCode code) {
  JsonBuilder builder;
  VITRAIL_EXPECT(nlohmann::json::sax_parse(text, &builder), code, "'" + source + "' is not valid JSON",
                 builder.refusal(), "");
  Json made = builder.take();
  made.remember_origin("'" + source + "'", "", code);
  return made;
}

void Json::remember_origin(const std::string& where, const std::string& pointer, ExitCode code) {
  where_ = pointer.empty() ? where : where + " at " + pointer;
  code_ = code;
  if (auto* array = std::get_if<std::vector<Json>>(&value_)) {
    for (std::size_t i = 0; i < array->size(); ++i) {
      (*array)[i].remember_origin(where, pointer + "/" + std::to_string(i), code);
    }
  }
  if (auto* members = std::get_if<std::vector<JsonMember>>(&value_)) {
    for (JsonMember& member : *members) member.value.remember_origin(where, pointer + "/" + member.key, code);
  }
}

std::string Json::dump(int indent) const {
  return to_parsed(*this).dump(indent, ' ', false, Parsed::error_handler_t::replace);
}

void Json::wrong_kind(std::string_view wanted) const {
  const std::string value = dump();
  fail(code_,
       {text(where_.empty() ? "a JSON value" : where_, ": ", value.substr(0, 60), value.size() > 60 ? "..." : ""),
        text(wanted, " is expected"), ""});
}

bool Json::as_bool() const {
  if (!is_boolean()) wrong_kind("true or false");
  return std::get<bool>(value_);
}

std::int64_t Json::as_integer() const {
  if (!is_integer()) wrong_kind("a whole number");
  return std::get<std::int64_t>(value_);
}

double Json::as_real() const {
  if (!is_number()) wrong_kind("a number");
  return is_integer() ? static_cast<double>(std::get<std::int64_t>(value_)) : std::get<double>(value_);
}

const std::string& Json::as_string() const {
  if (!is_string()) wrong_kind("a string");
  return std::get<std::string>(value_);
}

const std::vector<Json>& Json::items() const {
  if (!is_array()) wrong_kind("an array");
  return std::get<std::vector<Json>>(value_);
}

const std::vector<JsonMember>& Json::members() const {
  if (!is_object()) wrong_kind("an object");
  return std::get<std::vector<JsonMember>>(value_);
}

const Json* Json::find(std::string_view key) const {
  for (const JsonMember& member : members()) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* found = find(key);
  VITRAIL_EXPECT(found != nullptr, code_, text(where_.empty() ? "a JSON object" : where_, " has no '", key, "'"),
                 "it is needed", "");
  return *found;
}

Json& Json::set(std::string_view key, Json value) {
  if (is_null()) value_ = std::vector<JsonMember>();
  if (!is_object()) wrong_kind("an object");
  auto& members = std::get<std::vector<JsonMember>>(value_);
  for (JsonMember& member : members) {
    if (member.key == key) {
      member.value = std::move(value);
      return *this;
    }
  }
  members.push_back({std::string(key), std::move(value)});
  return *this;
}

Json& Json::push_back(Json value) {
  if (is_null()) value_ = std::vector<Json>();
  if (!is_array()) wrong_kind("an array");
  std::get<std::vector<Json>>(value_).push_back(std::move(value));
  return *this;
}

bool operator==(const Json& a, const Json& b) {
  if (a.is_object() && b.is_object()) {
    const std::vector<JsonMember>& left = a.members();
    const std::vector<JsonMember>& right = b.members();
    return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                      [](const JsonMember& x, const JsonMember& y) { return x.key == y.key && x.value == y.value; });
  }
  if (a.is_array() && b.is_array()) return a.items() == b.items();
  if (a.value_.index() != b.value_.index()) return false;
  if (a.is_boolean()) return a.as_bool() == b.as_bool();
  if (a.is_integer()) return a.as_integer() == b.as_integer();
  if (a.is_number()) return a.as_real() == b.as_real();
  if (a.is_string()) return a.as_string() == b.as_string();
  return true;
}

}  // namespace vitrail
