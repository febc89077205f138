#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "apps/options.hpp"
#include "apps/version.hpp"

namespace vitrail {
namespace {

struct Settings {
  std::int64_t batch = 64;
  double rate = 3e-3;
  bool bpr = false;
  std::string backend = "cpu";
  std::optional<std::int64_t> threads;
  std::vector<std::string> data;
  std::string config;
};

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() : options_("vitrail-test", "Tests.\n") {
    options_.add("config", settings_.config, "FILE", "configuration file").only_on_command_line();
    options_.section("Training");
    options_.add("batch", settings_.batch, "N", "images per step").effect(Effect::numerics);
    options_.add("schedule.rate", settings_.rate, "R", "learning rate");
    options_.add("bpr", settings_.bpr, "", "batch prioritized routing");
    options_.add("backend", settings_.backend, "NAME", "who computes").choices({"cpu", "reference"});
    options_.add("threads", settings_.threads, "N", "threads per rank").effect(Effect::layout);
    options_.add("data", settings_.data, "PATH...", "folders");
  }
  void TearDown() override { std::filesystem::remove(path_); }

  bool parse(std::vector<const char*> words) {
    words.insert(words.begin(), "vitrail-test");
    return options_.parse(static_cast<int>(words.size()), words.data());
  }
  std::filesystem::path file(const std::string& content) {
    std::ofstream(path_) << content;
    return path_;
  }
  template <class Action>
  static std::string error_of(Action action) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return error.what();
    }
    ADD_FAILURE() << "no Error was thrown";
    return "";
  }

  Settings settings_;
  Options options_;
  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("vitrail-options-" + std::to_string(getpid()) + ".conf");
};

TEST_F(OptionsTest, LeavesDefaultsAlone) {
  ASSERT_TRUE(parse({}));
  options_.apply();
  EXPECT_EQ(settings_.batch, 64);
  EXPECT_FALSE(settings_.threads.has_value());
}

TEST_F(OptionsTest, PutsTheCommandLineOverTheFileOverThePresetOverTheDefaults) {
  ASSERT_TRUE(parse({"--batch", "256", "--data", "x", "y", "--bpr"}));
  options_.read_file(file("batch = 128  # comment\nbackend = reference\ndata = a\ndata = b\n[schedule]\nrate = 0.5\n"));
  settings_.batch = 32;  // a preset
  settings_.threads = 4;
  EXPECT_EQ(options_.given("batch"), "256");
  EXPECT_EQ(options_.given("backend"), "reference");
  EXPECT_EQ(options_.given("threads"), std::nullopt);
  options_.apply();
  EXPECT_EQ(settings_.batch, 256);
  EXPECT_EQ(settings_.backend, "reference");
  EXPECT_EQ(settings_.rate, 0.5);
  EXPECT_EQ(settings_.threads, 4);
  EXPECT_TRUE(settings_.bpr);
  EXPECT_EQ(settings_.data, (std::vector<std::string>{"x", "y"}));
}

TEST_F(OptionsTest, UnderstandsEverySpelling) {
  ASSERT_TRUE(parse({"--batch=1", "--batch=2", "--bpr=false", "--data", "a", "--data=b", "--schedule.rate", "-1e-3"}));
  options_.apply();
  EXPECT_EQ(settings_.batch, 2);
  EXPECT_FALSE(settings_.bpr);
  EXPECT_EQ(settings_.data, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(settings_.rate, -1e-3);
}

TEST_F(OptionsTest, NamesTheNearestOptionKeyOrValue) {
  EXPECT_EQ(error_of([&] {
              return parse({"--bacth", "3"});
            }),
            "unknown option --bacth (vitrail-test has no such option). Did you mean 'batch'?");
  EXPECT_EQ(error_of([&] { return parse({"--batc=3"}); }).substr(0, 21), "unknown option --batc");
  EXPECT_EQ(error_of([&] { return parse({"--halp"}); }).substr(15),
            "--halp (vitrail-test has no such option). Did you mean 'help'?");
  EXPECT_EQ(error_of([&] {
              return parse({"--backend", "refrence"});
            }),
            "'refrence' is not a value of --backend (it may be cpu, reference). Did you mean 'reference'?");
  EXPECT_EQ(
      error_of([&] { options_.read_file(file("thread = 3\n")); }),
      "unknown key 'thread' in '" + path_.string() + "' (vitrail-test has no such setting). Did you mean 'threads'?");
}

TEST_F(OptionsTest, RefusesWhatItCannotRead) {
  EXPECT_NE(error_of([&] { return parse({"stray"}); }).find("unexpected argument 'stray'"), std::string::npos);
  EXPECT_NE(error_of([&] { return parse({"-x"}); }).find("-x"), std::string::npos);
  EXPECT_NE(error_of([&] { return parse({"--batch"}); }).find("batch"), std::string::npos);
  EXPECT_NE(error_of([&] { return parse({"--batch", "--bpr"}); }).find("batch"), std::string::npos);
  EXPECT_NE(error_of([&] { options_.read_file("/no/such/file"); }).find("/no/such/file"), std::string::npos);
  EXPECT_NE(error_of([&] { options_.read_file(file("batch\n")); }).find("'batch'"), std::string::npos);
  EXPECT_NE(error_of([&] { options_.read_file(file("config = x\n")); }).find("command line"), std::string::npos);
  EXPECT_NE(error_of([&] { options_.read_file(file("batch = 1\nbatch = 2\n")); }).find("twice"), std::string::npos);
}

TEST_F(OptionsTest, RefusesValuesOfTheWrongKind) {
  for (const char* wrong : {"12x", "", "1.5", " 3", "99999999999999999999"}) {
    Settings settings;
    Options options("vitrail-test", "");
    options.add("batch", settings.batch, "N", "");
    const std::vector<const char*> words{"vitrail-test", "--batch", wrong};
    EXPECT_NE(error_of([&] {
                static_cast<void>(options.parse(3, words.data()));
                options.apply();
              }).find("--batch"),
              std::string::npos)
        << wrong;
  }
}

TEST_F(OptionsTest, AsksForWhatIsRequired) {
  std::string images;
  options_.add("images", images, "FILE", "images to read").required();
  ASSERT_TRUE(parse({}));
  EXPECT_NE(error_of([&] { options_.apply(); }).find("--images is missing"), std::string::npos);
}

TEST_F(OptionsTest, CollectsPositionalWords) {
  std::vector<std::string> files;
  options_.add("file", files, "FILE...", "files");
  options_.positional("file");
  ASSERT_TRUE(parse({"a.h5", "--batch", "3", "b.h5"}));
  options_.apply();
  EXPECT_EQ(files, (std::vector<std::string>{"a.h5", "b.h5"}));
  EXPECT_EQ(settings_.batch, 3);
}

TEST_F(OptionsTest, PrintsAConfigurationThatReadsBackTheSame) {
  ASSERT_TRUE(parse({"--batch", "7", "--schedule.rate", "0.1", "--data", "a", "b", "--bpr", "--config", "c"}));
  options_.apply();
  std::ostringstream printed;
  options_.print_config(printed);
  EXPECT_EQ(printed.str().find("config ="), std::string::npos);
  EXPECT_NE(printed.str().find("# threads ="), std::string::npos);
  Settings again;
  Options options("vitrail-test", "");
  options.add("batch", again.batch, "N", "");
  options.add("schedule.rate", again.rate, "R", "");
  options.add("bpr", again.bpr, "", "");
  options.add("backend", again.backend, "", "");
  options.add("data", again.data, "", "");
  options.read_file(file(printed.str()));
  options.apply();
  EXPECT_EQ(again.batch, 7);
  EXPECT_EQ(again.rate, 0.1);
  EXPECT_TRUE(again.bpr);
  EXPECT_EQ(again.data, (std::vector<std::string>{"a", "b"}));
}

TEST_F(OptionsTest, OfTwoThatExcludeEachOtherTheOneOfTheLowerLayerGivesWay) {
  EXPECT_EQ(options_.outranked("batch", "threads"), std::nullopt);
  options_.read_file(file("batch = 8\n"));
  EXPECT_EQ(options_.outranked("batch", "threads"), "threads");
  EXPECT_EQ(options_.outranked("threads", "batch"), "threads");
  EXPECT_TRUE(parse({"--threads", "2"}));
  EXPECT_EQ(options_.outranked("batch", "threads"), "batch");
  EXPECT_TRUE(parse({"--batch", "4"}));
  EXPECT_EQ(options_.outranked("batch", "threads"), std::nullopt);
}

TEST_F(OptionsTest, TellsTheEffectOfEverySetting) {
  const std::vector<Setting> settings = options_.settings();
  ASSERT_EQ(settings.size(), 7U);
  EXPECT_EQ(settings[1].name, "batch");
  EXPECT_EQ(settings[1].values, (std::vector<std::string>{"64"}));
  EXPECT_EQ(settings[1].effect, Effect::numerics);
  EXPECT_EQ(settings[5].effect, Effect::layout);
  EXPECT_TRUE(settings[5].values.empty());
}

TEST_F(OptionsTest, HelpNamesEveryOptionItsDefaultAndItsChoices) {
  std::ostringstream help;
  options_.print_help(help);
  for (const char* part :
       {"Tests.", "Training:", "--batch N", "(default 64)", "cpu, reference", "--help", "--version"}) {
    EXPECT_NE(help.str().find(part), std::string::npos) << part;
  }
  ::testing::internal::CaptureStdout();
  EXPECT_FALSE(parse({"--batch", "3", "--help"}));
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), help.str());
}

TEST(RunGuarded, TurnsErrorsIntoOneLineAndTheirExitCode) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(run_guarded("prog", [] { return 85; }), 85);
  EXPECT_EQ(run_guarded("prog", []() -> int { fail(ExitCode::data, {"bad shard", "it is cut", ""}); }), 3);
  EXPECT_EQ(run_guarded("prog", []() -> int { throw std::bad_alloc(); }), 2);
  EXPECT_EQ(run_guarded("prog", []() -> int { throw std::logic_error("odd"); }), 1);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "prog: error: bad shard (it is cut)\n"
            "prog: error: not enough memory. Use smaller sizes or a larger machine\n"
            "prog: error: odd\n");
}

TEST(Version, IsTheOneOfTheBuild) {
  std::ifstream build(VITRAIL_SOURCE_DIR "/CMakeLists.txt");
  std::stringstream text;
  text << build.rdbuf();
  EXPECT_NE(text.str().find(std::string("project(vitrail VERSION ") + kVersion + " "), std::string::npos);
}

}  // namespace
}  // namespace vitrail
