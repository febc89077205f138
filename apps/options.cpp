#include "apps/options.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iostream>
#include <new>
#include <sstream>
#include <utility>

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/positional_options.hpp>

#include "apps/version.hpp"

namespace po = boost::program_options;

namespace vitrail {

namespace {

constexpr std::size_t kHelpColumn = 30;
constexpr std::size_t kHelpWidth = 100;
// Boost's name for words that belong to no option.
const char* const kStray = "";

const std::vector<std::string> kOwnNames{"help", "version"};

// Breaks `help` into lines that start at kHelpColumn.
void print_wrapped(std::ostream& out, const std::string& help) {
  std::istringstream words(help);
  std::size_t column = kHelpColumn;
  for (std::string word; words >> word; column += word.size() + 1) {
    if (column > kHelpColumn && column + word.size() > kHelpWidth) {
      out << '\n' << std::string(kHelpColumn, ' ');
      column = kHelpColumn;
    }
    out << (column > kHelpColumn ? " " : "") << word;
  }
  out << '\n';
}

void print_entry(std::ostream& out, const std::string& left, const std::string& help) {
  const std::string start = "  " + left;
  out << start;
  if (start.size() + 2 > kHelpColumn) {
    out << '\n' << std::string(kHelpColumn, ' ');
  } else {
    out << std::string(kHelpColumn - start.size(), ' ');
  }
  print_wrapped(out, help);
}

std::string joined(const std::vector<std::string>& words, const char* between) {
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : between) + word;
  return line;
}

template <class Number>
bool read_whole(const std::string& text, Number& value) {
  const char* const end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data(), end, value);
  return failure == std::errc() && stop == end;
}

}  // namespace

Option& Option::choices(std::vector<std::string> values) {
  choices_ = std::move(values);
  return *this;
}

Option& Option::required() {
  required_ = true;
  return *this;
}

Option& Option::only_on_command_line() {
  in_files_ = false;
  return *this;
}

Option& Option::effect(Effect effect) {
  effect_ = effect;
  return *this;
}

Options::Options(std::string program, std::string manual) : program_(std::move(program)), manual_(std::move(manual)) {}

Option& Options::add_option(const std::string& name, Option::Form form, const std::string& placeholder,
                            const std::string& help) {
  VITRAIL_ASSERT(find(name) == nullptr);
  Option& option = options_.emplace_back();
  option.name_ = name;
  option.form_ = form;
  option.placeholder_ = placeholder;
  option.help_ = help;
  option.section_ = section_;
  return option;
}

const Option* Options::find(const std::string& name) const {
  for (const Option& option : options_) {
    if (option.name_ == name) return &option;
  }
  return nullptr;
}

void Options::expect_valid(const Option& option, const std::vector<std::string>& values,
                           const std::string& source) const {
  if (option.choices_.empty()) return;
  for (const std::string& value : values) {
    VITRAIL_EXPECT(std::count(option.choices_.begin(), option.choices_.end(), value) == 1, ExitCode::usage,
                   text("'", value, "' is not a value of ", source, option.name_),
                   "it may be " + joined(option.choices_, ", "), did_you_mean(value, option.choices_));
  }
}

void Options::put(Layer& layer, const std::string& name, const std::vector<std::string>& values) {
  std::vector<std::string>& kept = layer[name];
  if (find(name)->form_ != Option::Form::list) kept.clear();
  kept.insert(kept.end(), values.begin(), values.end());
}

bool Options::parse(int argc, const char* const* argv) {
  po::options_description described;
  for (const Option& option : options_) {
    auto* const value = po::value<std::vector<std::string>>();
    if (option.form_ == Option::Form::list) value->multitoken();
    described.add_options()(option.name_.c_str(), value);
  }
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--help" || word == "-h") {
      print_help(std::cout);
      return false;
    }
    if (word == "--version") {
      std::cout << version_line(program_);
      return false;
    }
    const Option* const option = word.starts_with("--") ? find(word.substr(2)) : nullptr;
    if (option != nullptr && option->form_ == Option::Form::flag) word += "=true";
    words.push_back(std::move(word));
  }
  try {
    using Style = po::command_line_style::style_t;
    const po::parsed_options parsed =
        po::command_line_parser(words)
            .options(described)
            .style(Style::allow_long | Style::long_allow_adjacent | Style::long_allow_next)
            .allow_unregistered()
            .run();
    for (const po::option& found : parsed.options) {
      const std::string name = found.position_key >= 0 ? kStray : found.string_key;
      if (name == kStray) {
        VITRAIL_EXPECT(!positional_.empty(), ExitCode::usage, text("unexpected argument '", found.value.at(0), "'"),
                       "options are written --name VALUE", text("See ", program_, " --help"));
        put(command_line_, positional_, found.value);
        continue;
      }
      std::vector<std::string> known = kOwnNames;
      for (const Option& option : options_) known.push_back(option.name_);
      const std::string nearest = did_you_mean(name, known);
      VITRAIL_EXPECT(!found.unregistered, ExitCode::usage, text("unknown option --", name),
                     text(program_, " has no such option"),
                     nearest.empty() ? text("See ", program_, " --help") : nearest);
      // Boost would take the next option as the value of one whose value was forgotten.
      for (const std::string& value : found.value) {
        VITRAIL_EXPECT(!value.starts_with("--"), ExitCode::usage, text("--", name, " has no value"),
                       text("'", value, "' follows, which is an option"), text("See ", program_, " --help"));
      }
      expect_valid(*find(name), found.value, "--");
      put(command_line_, name, found.value);
    }
  } catch (const po::error& failure) {
    fail(ExitCode::usage, {failure.what(), "the command line cannot be read", text("See ", program_, " --help")});
  }
  return true;
}

void Options::read_file(const std::filesystem::path& path) {
  file_name_ = path.string();
  std::ifstream stream(path);
  VITRAIL_EXPECT(stream.good(), ExitCode::usage, text("cannot read the configuration file '", file_name_, "'"),
                 "it is missing or not readable", "Is the path right?");
  po::options_description described;
  std::vector<std::string> known;
  for (const Option& option : options_) {
    if (!option.in_files_) continue;
    described.add_options()(option.name_.c_str(), po::value<std::vector<std::string>>());
    known.push_back(option.name_);
  }
  try {
    for (const po::option& found : po::parse_config_file(stream, described, true).options) {
      const std::string& name = found.string_key;
      const Option* const option = find(name);
      VITRAIL_EXPECT(option == nullptr || option->in_files_, ExitCode::usage,
                     text("'", file_name_, "' sets '", name, "'"), "this belongs on the command line alone", "");
      VITRAIL_EXPECT(option != nullptr, ExitCode::usage, text("unknown key '", name, "' in '", file_name_, "'"),
                     text(program_, " has no such setting"), did_you_mean(name, known));
      VITRAIL_EXPECT(option->form_ == Option::Form::list || file_.count(name) == 0, ExitCode::usage,
                     text("'", file_name_, "' sets '", name, "' twice"), "it has one value", "Remove one of the lines");
      expect_valid(*option, found.value, text("'", file_name_, "': "));
      put(file_, name, found.value);
    }
  } catch (const po::error& failure) {
    fail(ExitCode::usage, {text("cannot read the configuration file '", file_name_, "': ", failure.what()),
                           "lines are 'name = value', '[part]' or comments after '#'", ""});
  }
}

std::optional<std::string> Options::given(const std::string& name) const {
  for (const Layer* layer : {&command_line_, &file_}) {
    if (const auto found = layer->find(name); found != layer->end()) return found->second.back();
  }
  return std::nullopt;
}

std::optional<std::string> Options::outranked(const std::string& one, const std::string& other) const {
  for (const Layer* layer : {&command_line_, &file_}) {
    const bool has_one = layer->contains(one);
    if (has_one != layer->contains(other)) return has_one ? other : one;
    if (has_one) break;
  }
  return std::nullopt;
}

void Options::read_settings(const std::vector<Setting>& settings) {
  for (const Setting& setting : settings) {
    const Option* const option = find(setting.name);
    if (option == nullptr || !option->in_files_ || setting.values.empty()) continue;
    expect_valid(*option, setting.values, "remembered settings: ");
    put(file_, setting.name, setting.values);
  }
}

void Options::apply() {
  for (const Option& option : options_) {
    bool found_one = false;
    for (const Layer* layer : {&file_, &command_line_}) {
      const auto found = layer->find(option.name_);
      if (found == layer->end()) continue;
      option.assign_(found->second);
      found_one = true;
    }
    VITRAIL_EXPECT(found_one || !option.required_, ExitCode::usage, text("--", option.name_, " is missing"),
                   text("it says: ", option.help_), text("See ", program_, " --help"));
  }
}

std::vector<Setting> Options::settings() const {
  std::vector<Setting> all;
  for (const Option& option : options_) all.push_back({option.name_, option.show_(), option.effect_});
  return all;
}

void Options::print_config(std::ostream& out) const {
  std::string section;
  for (const Option& option : options_) {
    if (!option.in_files_) continue;
    if (option.section_ != section) out << (section.empty() ? "# " : "\n# ") << option.section_ << '\n';
    section = option.section_;
    const std::vector<std::string> values = option.show_();
    if (values.empty()) out << "# " << option.name_ << " =\n";
    for (const std::string& value : values) out << option.name_ << " = " << value << '\n';
  }
}

void Options::print_help(std::ostream& out) const {
  out << manual_ << '\n';
  std::string section;
  for (const Option& option : options_) {
    if (option.section_ != section) out << '\n' << option.section_ << ":\n";
    section = option.section_;
    std::string help = option.help_;
    if (!option.choices_.empty()) help += ": " + joined(option.choices_, ", ");
    const std::string value = joined(option.show_(), " ");
    const bool tells_default = !value.empty() && !option.required_ && value != "false";
    if (tells_default) help += " (default " + value + ")";
    if (option.required_) help += " (required)";
    print_entry(out, "--" + option.name_ + (option.placeholder_.empty() ? "" : " " + option.placeholder_), help);
  }
  out << "\nMore:\n";
  print_entry(out, "--help", "this text");
  print_entry(out, "--version", "the version");
}

int run_guarded(const std::string& program, const std::function<int()>& body) {
  const auto report = [&](const char* said, ExitCode code) {
    std::cout.flush();
    std::cerr << program << ": error: " << said << '\n';
    return static_cast<int>(code);
  };
  try {
    return body();
  } catch (const Error& error) {
    return report(error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return report("not enough memory. Use smaller sizes or a larger machine", ExitCode::usage);
  } catch (const std::exception& error) {
    return report(error.what(), ExitCode::other);
  }
}

namespace option_text {

const char* read(const std::string& text, bool& value) {
  value = text == "true" || text == "yes" || text == "on" || text == "1";
  const bool is_no = text == "false" || text == "no" || text == "off" || text == "0";
  return value || is_no ? nullptr : "true or false";
}

const char* read(const std::string& text, int& value) { return read_whole(text, value) ? nullptr : "a whole number"; }

const char* read(const std::string& text, std::int64_t& value) {
  return read_whole(text, value) ? nullptr : "a whole number";
}

const char* read(const std::string& text, double& value) { return read_whole(text, value) ? nullptr : "a number"; }

const char* read(const std::string& text, std::string& value) {
  value = text;
  return nullptr;
}

const char* read(const std::string& text, std::filesystem::path& value) {
  value = text;
  return text.empty() ? "a path" : nullptr;
}

std::string show(bool value) { return value ? "true" : "false"; }

std::string show(int value) { return std::to_string(value); }

std::string show(std::int64_t value) { return std::to_string(value); }

std::string show(double value) {
  char digits[64];
  const std::to_chars_result end = std::to_chars(digits, digits + sizeof digits, value);
  return {digits, end.ptr};
}

std::string show(const std::string& value) { return value; }

std::string show(const std::filesystem::path& value) { return value.string(); }

void refuse(const std::string& name, const std::string& text, const char* expected) {
  fail(ExitCode::usage,
       {vitrail::text("'", text, "' is not a value of --", name), vitrail::text(expected, " is expected"), ""});
}

}  // namespace option_text

}  // namespace vitrail
