#include "apps/checkpoint_show.hpp"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "apps/checkpoint_listing.hpp"
#include "apps/checkpoint_stretches.hpp"
#include "apps/options.hpp"
#include "apps/table.hpp"
#include "apps/tensor_statistics.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint show PATH [TENSOR] : what is in a checkpoint, or in the latest one of a run: step, layout and\n"
    "configuration of the run that wrote it, and its tensors with their numbers. A TENSOR is named in full, or by the\n"
    "first words of its name; its pieces are listed too, with the file, the first element, the number of elements\n"
    "and the byte of the file where they begin.\n"
    "\n"
    "  vitrail-checkpoint show runs/mine\n"
    "  vitrail-checkpoint show runs/mine parameters/head --values 10\n"
    "  vitrail-checkpoint show runs/mine --names --json\n"
    "\n"
    "norm is the square root of the sum of squares; norm, mean, min and max leave NaN and infinities out, and\n"
    "'non-finite' counts these. Every value is read, in small pieces; --names reads none.\n"
    "\n"
    "Exit codes: 0 shown; 2 usage; 4 the checkpoint cannot be read, or has no such tensor.";

struct Settings {
  std::vector<std::string> words;  ///< PATH and TENSOR
  std::int64_t values = 0;
  bool names = false;
  bool digest = false;
  bool json = false;
};

struct Shown {
  std::string name;
  Shape shape;
  Dtype dtype = Dtype::f32;
  std::vector<StoredPlace> places;
  TensorStatistics statistics;
  std::vector<double> values;  ///< the first ones
};

/// The tensor of this name, or those whose names go on with '/' behind it.
std::vector<std::string> chosen_tensors(const CheckpointReader& checkpoint, const std::string& wanted) {
  std::vector<std::string> all = checkpoint.tensors();
  if (wanted.empty()) return all;
  std::vector<std::string> chosen;
  for (const std::string& name : all) {
    if (name == wanted || name.starts_with(wanted.back() == '/' ? wanted : wanted + "/")) chosen.push_back(name);
  }
  VITRAIL_EXPECT(!chosen.empty(), ExitCode::checkpoint,
                 text("checkpoint '", checkpoint.path().string(), "' has no tensor '", wanted, "'"),
                 text("no name of its ", all.size(), " tensors is this or begins with it"), did_you_mean(wanted, all));
  return chosen;
}

Shown look_at(const CheckpointReader& checkpoint, const std::string& name, const Settings& s) {
  Shown shown{.name = name,
              .shape = checkpoint.shape(name),
              .dtype = checkpoint.dtype(name),
              .places = checkpoint.places(name),
              .statistics = {},
              .values = {}};
  StretchBuffer buffer;
  const std::int64_t elements = shown.shape.elements();
  if (!s.names) {
    in_stretches(elements, [&](std::int64_t first, std::int64_t count) {
      shown.statistics.add(to_doubles(buffer.read(checkpoint, name, first, count)));
    });
  }
  in_stretches(std::min(elements, s.values), [&](std::int64_t first, std::int64_t count) {
    const std::vector<double> some = to_doubles(buffer.read(checkpoint, name, first, count));
    shown.values.insert(shown.values.end(), some.begin(), some.end());
  });
  return shown;
}

// --- for people ------------------------------------------------------------------------------------------------------

/// The values of a setting are an array of texts.
std::string value_text(const Json& value) {
  if (value.is_string()) return value.as_string();
  if (!value.is_array()) return value.dump();
  std::string said;
  for (const Json& item : value.items()) said += (said.empty() ? "" : " ") + value_text(item);
  return said;
}

void print_members(const Json& object) {
  if (!object.is_object()) return;
  for (const JsonMember& member : object.members()) {
    std::cout << "  " << member.key << " = " << value_text(member.value) << '\n';
  }
}

void print_head(const CheckpointReader& checkpoint, const Settings& s) {
  const CheckpointInfo& info = checkpoint.info();
  std::cout << checkpoint.path().string() << ": step " << info.step;
  const std::string by = writers_text(info.layout);
  std::cout << (by.empty() ? "" : ", written by " + by) << "\n\nlayout:\n";
  print_members(info.layout);
  std::cout << "\nconfiguration:\n";
  print_members(info.config);
  std::cout << '\n';
  if (s.digest) std::cout << "digest: " << checkpoint.digest() << "\n\n";
}

void print_tensors(const std::vector<Shown>& all, bool names) {
  std::vector<Column> columns{{"tensor"}, {"shape"}, {"dtype"}};
  if (names) {
    columns.push_back({"bytes", true});
  } else {
    for (const char* title : {"norm", "mean", "min", "max", "non-finite"}) columns.push_back({title, true});
  }
  columns.push_back({"pieces", true});
  Table table(std::move(columns));
  for (const Shown& one : all) {
    std::vector<std::string> row{one.name, one.shape.str(), std::string(name_of(one.dtype))};
    if (names) {
      row.push_back(std::to_string(one.shape.elements() * size_of(one.dtype)));
    } else {
      const TensorStatistics& n = one.statistics;
      for (const double value : {n.norm(), n.mean(), n.min(), n.max()}) row.push_back(text(value));
      row.push_back(std::to_string(n.non_finite()));
    }
    row.push_back(std::to_string(one.places.size()));
    table.add(std::move(row));
  }
  table.print(std::cout);
}

void print_places(const std::vector<Shown>& all) {
  Table table({{"piece of"}, {"file"}, {"first", true}, {"count", true}, {"byte", true}});
  for (const Shown& one : all) {
    for (const StoredPlace& place : one.places) {
      table.add({one.name, place.file, std::to_string(place.first), std::to_string(place.count),
                 std::to_string(place.offset)});
    }
  }
  std::cout << '\n';
  table.print(std::cout);
}

void print_values(const std::vector<Shown>& all) {
  for (const Shown& one : all) {
    std::cout << '\n' << one.name << ", first " << one.values.size() << " of " << one.shape.elements() << ":\n ";
    for (const double value : one.values) std::cout << ' ' << option_text::show(value);
    std::cout << '\n';
  }
}

// --- for programs ----------------------------------------------------------------------------------------------------

Json to_json(const Shown& one, const Settings& s) {
  Json shape = Json::array();
  for (const std::int64_t length : one.shape.lengths()) shape.push_back(length);
  Json places = Json::array();
  for (const StoredPlace& place : one.places) {
    places.push_back(Json::object()
                         .set("file", place.file)
                         .set("first", place.first)
                         .set("count", place.count)
                         .set("offset", place.offset));
  }
  Json json = Json::object()
                  .set("tensor", one.name)
                  .set("shape", std::move(shape))
                  .set("dtype", name_of(one.dtype))
                  .set("pieces", std::move(places));
  if (!s.names) {
    json.set("norm", one.statistics.norm())
        .set("mean", one.statistics.mean())
        .set("min", one.statistics.min())
        .set("max", one.statistics.max())
        .set("non_finite", one.statistics.non_finite());
  }
  if (s.values > 0) {
    Json values = Json::array();
    for (const double value : one.values) values.push_back(value);
    json.set("values", std::move(values));
  }
  return json;
}

void print_json(const CheckpointReader& checkpoint, const std::vector<Shown>& all, const Settings& s) {
  Json tensors = Json::array();
  for (const Shown& one : all) tensors.push_back(to_json(one, s));
  Json json = Json::object()
                  .set("path", checkpoint.path().string())
                  .set("step", checkpoint.info().step)
                  .set("layout", checkpoint.info().layout)
                  .set("config", checkpoint.info().config);
  if (s.digest) json.set("digest", checkpoint.digest());
  std::cout << json.set("tensors", std::move(tensors)).dump() << '\n';
}

}  // namespace

int checkpoint_show(int argc, char** argv) {
  Settings s;
  Options options("vitrail-checkpoint show", kManual);
  options.add("what", s.words, "PATH [TENSOR]", "a checkpoint or run, and a tensor").required();
  options.add("values", s.values, "N", "also print the first N values of each tensor");
  options.add("names", s.names, "", "names, shapes and places alone: reads no values");
  options.add("digest", s.digest, "",
              "also print the SHA-256 over all tensors: equal for equal bits, whatever the files");
  options.add("json", s.json, "", "one JSON object instead of tables");
  options.positional("what");
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  VITRAIL_EXPECT(s.words.size() <= 2, ExitCode::usage,
                 text("'", s.words.at(s.words.size() - 1), "' is one word too many"),
                 "one checkpoint is shown, and at most one tensor", "vitrail-checkpoint show PATH [TENSOR]");
  VITRAIL_EXPECT(s.values >= 0, ExitCode::usage, text("--values ", s.values), "a number of values is 0 or more", "");

  const CheckpointReader checkpoint{std::filesystem::path(s.words.front())};
  const std::string wanted = s.words.size() > 1 ? s.words[1] : "";
  std::vector<Shown> all;
  for (const std::string& name : chosen_tensors(checkpoint, wanted)) all.push_back(look_at(checkpoint, name, s));
  if (s.json) {
    print_json(checkpoint, all, s);
    return 0;
  }
  if (wanted.empty()) print_head(checkpoint, s);
  print_tensors(all, s.names);
  if (!wanted.empty()) print_places(all);
  if (s.values > 0) print_values(all);
  return 0;
}

}  // namespace vitrail
