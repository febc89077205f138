// Settings of a run: preset < configuration file < command line, and what is printed says all of it.

#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "apps/run_options.hpp"
#include "train/presets.hpp"

namespace vitrail {
namespace {

class RunOptionsTest : public ::testing::Test {
 protected:
  struct Read {
    RunConfig run;
    std::string printed;
  };

  /// The words of a command line, read as a program would.
  [[nodiscard]] static Read read(std::vector<std::string> words) {
    Read read;
    RunOptionTexts texts;
    Options options("test", "");
    options.add("preset", texts.preset, "NAME", "").choices(preset_names()).only_on_command_line();
    options.add("config", texts.config_file, "FILE", "").only_on_command_line();
    add_layout_options(options, read.run);
    add_training_options(options, read.run);
    add_model_options(options, read.run, texts);
    words.insert(words.begin(), "test");
    std::vector<const char*> arguments;
    arguments.reserve(words.size());
    for (const std::string& word : words) arguments.push_back(word.c_str());
    EXPECT_TRUE(options.parse(static_cast<int>(arguments.size()), arguments.data()));
    apply_run_options(options, read.run, texts);
    std::ostringstream out;
    options.print_config(out);
    read.printed = out.str();
    return read;
  }

  [[nodiscard]] static std::string written(const std::string& text) {
    const auto path = std::filesystem::path(::testing::TempDir()) / "vitrail_run_options.cfg";
    std::ofstream(path) << text;
    return path.string();
  }
};

TEST_F(RunOptionsTest, AnotherBackEndIsToldAndNotRefused) {
  RunConfig run;
  RunOptionTexts texts;
  Options options("test", "");
  options.add("preset", texts.preset, "NAME", "").choices(preset_names()).only_on_command_line();
  options.add("config", texts.config_file, "FILE", "").only_on_command_line();
  add_layout_options(options, run);
  const std::vector<const char*> words = {"test", "--backend", "reference"};
  EXPECT_TRUE(options.parse(static_cast<int>(words.size()), words.data()));
  apply_run_options(options, run, texts);
  Json written = run_settings(options);
  EXPECT_EQ(other_backend(options, written), "");
  written.set("backend", Json::array().push_back("cpu"));
  EXPECT_EQ(other_backend(options, written), "--backend reference (was cpu)");
  EXPECT_NO_THROW(expect_same_numerics(options, written, "a checkpoint"));
  written.set("batch", Json::array().push_back("7"));
  EXPECT_THROW(expect_same_numerics(options, written, "a checkpoint"), Error);
}

TEST_F(RunOptionsTest, EveryPresetIsPrintedAndReadBackAsTheSame) {
  for (const std::string& name : preset_names()) {
    SCOPED_TRACE(name);
    const Read first = read({"--preset", name});
    const std::string file = written(first.printed);
    for (const char* below : {"fmnist", "v-moe-15b", "v-moe-b16-every2-cifar10-finetune"}) {
      const Read again = read({"--preset", below, "--config", file});
      EXPECT_EQ(again.printed, first.printed) << "over " << below;
      EXPECT_TRUE(again.run == first.run) << "a setting has no option";
    }
  }
}

TEST_F(RunOptionsTest, OptionsGoBeforeThePreset) {
  const Read run = read({"--preset", "v-moe-h14-last5", "--selected", "1", "--steps", "7"});
  EXPECT_EQ(run.run.model.router.selected, 1);
  EXPECT_EQ(run.run.steps, 7);
  EXPECT_EQ(run.run.epochs, 0);
  EXPECT_EQ(run.run.model.moe_blocks.size(), 5U);
}

}  // namespace
}  // namespace vitrail
