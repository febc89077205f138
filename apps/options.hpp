#pragma once
// Command lines and configuration files, read into plain structs.
//
//   Settings settings;                                     // the defaults are the struct's own initial values
//   Options options("vitrail-pack", "What it does, with examples.");
//   options.add("shards", settings.shards, "N", "number of files");
//   if (!options.parse(argc, argv)) return 0;              // --help or --version was printed
//   if (const auto file = options.given("config")) options.read_file(*file);
//   options.apply();                                       // now the struct is filled: default < file < command line
//
// Between parse() and apply() a program may change the struct: a preset chosen by options.given("preset") becomes the
// new defaults. Every mistake is an Error(ExitCode::usage) that names the nearest valid word.
//
// Command line: --name VALUE or --name=VALUE; --flag, --flag=false; lists: --name A B or --name A --name B. A single
// value that is given twice counts as given last. Names are written out: --batc is an error, not --batch.
// Configuration file: lines "name = value", '#' starts a comment, "[part]" puts "part." in front of the names below;
// lists: one line per value. A layer replaces the lists of the layers below it.

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <iosfwd>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/error.hpp"

namespace vitrail {

/// What another value of an option does to a run that is resumed.
enum class Effect {
  none,      ///< nothing: where files go, how much is printed
  layout,    ///< work is divided otherwise, the results stay the same bits
  backend,   ///< the bits of the results change, their meaning does not
  numerics,  ///< results change
};

/// One option: made by Options::add, refined by the calls below, in any order.
class Option {
 public:
  /// Refuse other values, naming the nearest of these.
  Option& choices(std::vector<std::string> values);
  /// apply() fails if no layer gives a value.
  Option& required();
  /// Not a key of configuration files, and not printed by print_config.
  Option& only_on_command_line();
  Option& effect(Effect effect);

 private:
  friend class Options;
  enum class Form { flag, single, list };

  std::string name_;
  std::string placeholder_;
  std::string help_;
  std::string section_;
  std::vector<std::string> choices_;
  Form form_ = Form::single;
  bool required_ = false;
  bool in_files_ = true;
  Effect effect_ = Effect::none;
  std::function<void(const std::vector<std::string>&)> assign_;  ///< texts into the bound variable
  std::function<std::vector<std::string>()> show_;               ///< its present value as texts; empty: not set
};

/// The present value of an option.
struct Setting {
  std::string name;
  std::vector<std::string> values;  ///< one text; a list: any number; an optional or path that is not set: none
  Effect effect{};
};

class Options {
 public:
  /// `manual` stands at the top of --help.
  Options(std::string program, std::string manual);
  Options(const Options&) = delete;  // options point to variables
  Options& operator=(const Options&) = delete;

  /// Options added from here on stand under this title in --help.
  void section(std::string title) { section_ = std::move(title); }

  /// Binds an option to a variable, whose value is the default. T: bool, int, std::int64_t, double, std::string,
  /// std::filesystem::path, std::optional of these, or std::vector of these (but bool).
  template <class T>
  Option& add(const std::string& name, T& target, const std::string& placeholder, const std::string& help);
  /// Words of the command line that belong to no option go to the list option `name`. Without: they are errors.
  void positional(const std::string& name) { positional_ = name; }

  /// Reads the command line. False: --help or --version was asked for and has been printed.
  [[nodiscard]] bool parse(int argc, const char* const* argv);
  /// Reads a configuration file.
  void read_file(const std::filesystem::path& path);
  /// Settings of an earlier run, in the place of a configuration file. Names that this program has no option for are
  /// passed over: another program wrote them.
  void read_settings(const std::vector<Setting>& settings);
  /// What the command line, or else the file, says for a single-valued option (also before apply()).
  [[nodiscard]] std::optional<std::string> given(const std::string& name) const;
  /// Two settings of which one excludes the other, such as the length of a run in steps and in epochs: which of them
  /// has to give way? The one that is given on a lower layer; neither when both are given on the same or none is at
  /// all.
  [[nodiscard]] std::optional<std::string> outranked(const std::string& one, const std::string& other) const;
  /// Fills the variables: file first, command line on top.
  void apply();

  /// All options with their present values, in order.
  [[nodiscard]] std::vector<Setting> settings() const;
  /// The present values as a configuration file that read_file understands.
  void print_config(std::ostream& out) const;
  void print_help(std::ostream& out) const;

 private:
  using Layer = std::map<std::string, std::vector<std::string>>;

  Option& add_option(const std::string& name, Option::Form form, const std::string& placeholder,
                     const std::string& help);
  [[nodiscard]] const Option* find(const std::string& name) const;
  void put(Layer& layer, const std::string& name, const std::vector<std::string>& values);
  void expect_valid(const Option& option, const std::vector<std::string>& values, const std::string& source) const;

  std::string program_;
  std::string manual_;
  std::string section_ = "Options";
  std::string positional_;
  std::deque<Option> options_;  // a deque: references stay valid
  Layer command_line_;
  Layer file_;
  std::string file_name_;
};

/// Runs the body of a program that does not use MPI. An exception becomes "prog: error: text" on stderr and its exit
/// code (anything but an Error: ExitCode::other; no memory: ExitCode::usage).
int run_guarded(const std::string& program, const std::function<int()>& body);

// --- how texts become values -----------------------------------------------------------------------------------------

namespace option_text {

/// Each sets `value` or returns what was expected instead ("a whole number"); nullptr: fine.
const char* read(const std::string& text, bool& value);
const char* read(const std::string& text, int& value);
const char* read(const std::string& text, std::int64_t& value);
const char* read(const std::string& text, double& value);
const char* read(const std::string& text, std::string& value);
const char* read(const std::string& text, std::filesystem::path& value);

std::string show(bool value);
std::string show(int value);
std::string show(std::int64_t value);
std::string show(double value);  ///< the shortest text that reads back as the same bits
std::string show(const std::string& value);
std::string show(const std::filesystem::path& value);

[[noreturn]] void refuse(const std::string& name, const std::string& text, const char* expected);

template <class T>
T read_or_refuse(const std::string& name, const std::string& text) {
  T value{};
  if (const char* expected = read(text, value)) refuse(name, text, expected);
  return value;
}

template <class T>
struct Shape {
  using Item = T;
  static constexpr bool is_list = false;
};
template <class T>
struct Shape<std::optional<T>> {
  using Item = T;
  static constexpr bool is_list = false;
};
template <class T>
struct Shape<std::vector<T>> {
  using Item = T;
  static constexpr bool is_list = true;
};

}  // namespace option_text

template <class T>
Option& Options::add(const std::string& name, T& target, const std::string& placeholder, const std::string& help) {
  using Item = typename option_text::Shape<T>::Item;
  constexpr bool is_list = option_text::Shape<T>::is_list;
  constexpr bool is_flag = std::is_same_v<T, bool>;
  Option& option = add_option(
      name, is_list ? Option::Form::list : (is_flag ? Option::Form::flag : Option::Form::single), placeholder, help);
  option.assign_ = [name, &target](const std::vector<std::string>& texts) {
    if constexpr (is_list) {
      T values;
      values.reserve(texts.size());
      for (const std::string& one : texts) values.push_back(option_text::read_or_refuse<Item>(name, one));
      target = std::move(values);
    } else {
      target = option_text::read_or_refuse<Item>(name, texts.back());
    }
  };
  option.show_ = [&target]() -> std::vector<std::string> {
    if constexpr (is_list) {
      std::vector<std::string> texts;
      texts.reserve(target.size());
      for (const auto& value : target) texts.push_back(option_text::show(value));
      return texts;
    } else if constexpr (std::is_same_v<T, std::filesystem::path>) {
      return target.empty() ? std::vector<std::string>() : std::vector<std::string>{option_text::show(target)};
    } else if constexpr (std::is_same_v<T, Item>) {
      return {option_text::show(target)};
    } else {
      return target.has_value() ? std::vector<std::string>{option_text::show(*target)} : std::vector<std::string>();
    }
  };
  return option;
}

}  // namespace vitrail
