#include "apps/eval_fewshot.hpp"

#include <algorithm>
#include <deque>
#include <numeric>

#include "apps/progress.hpp"
#include "apps/run_report.hpp"
#include "data/shard.hpp"

namespace vitrail {

void FewShotSettings::check() const {
  if (!wanted()) {
    VITRAIL_EXPECT(train.empty() && test.empty(), ExitCode::usage,
                   "--few-shot-train or --few-shot-test without --few-shot",
                   "nothing says how many images per class to learn from", "Add --few-shot 1 5 10 25");
    return;
  }
  VITRAIL_EXPECT(!train.empty() && train.size() == test.size(), ExitCode::usage,
                 text(train.size(), " paths in --few-shot-train and ", test.size(), " in --few-shot-test"),
                 "every data set needs both", "Give as many of one as of the other, in the same order");
  VITRAIL_EXPECT(*std::min_element(shots.begin(), shots.end()) > 0, ExitCode::usage,
                 text("--few-shot ", *std::min_element(shots.begin(), shots.end())), "it counts images per class", "");
  VITRAIL_EXPECT(!seeds.empty(), ExitCode::usage, "no --few-shot-seeds", "at least one choice of images is needed", "");
}

void add_few_shot_options(Options& options, FewShotSettings& s) {
  options.section("Few-shot evaluation");
  options.add("few-shot", s.shots, "N...", "images per class that a linear classifier learns from: 1 5 10 25")
      .only_on_command_line();
  options.add("few-shot-train", s.train, "PATH...", "where it learns; folders that vitrail-pack made")
      .only_on_command_line();
  options.add("few-shot-test", s.test, "PATH...", "where it is tested: one for every path of --few-shot-train")
      .only_on_command_line();
  options.add("few-shot-seeds", s.seeds, "N...", "choices of training images; accuracies are means over them")
      .only_on_command_line();
}

namespace {

/// A data set as the model sees it.
struct FewShotData {
  std::string name;
  std::string test_name;
  FeatureSet train;
  FeatureSet test;
};

FeatureSet features_of(Dataset& dataset, const FewShotModel& model, Evaluator& evaluator) {
  std::vector<std::int64_t> numbers;
  return evaluator.features(model.params, model.ranks, dataset.images(), dataset.classes(),
                            [&](std::int64_t first, std::int64_t count, Tensor raw_images, Tensor labels) {
                              numbers.resize(static_cast<std::size_t>(count));
                              std::iota(numbers.begin(), numbers.end(), first);
                              dataset.read(numbers, raw_images.as<std::uint8_t>(), labels.as<std::int32_t>());
                            });
}

std::vector<FewShotData> read_data(const FewShotSettings& settings, const FewShotModel& model) {
  std::deque<Dataset> sets;  // a data set does not move
  for (std::size_t i = 0; i < settings.train.size(); ++i) {
    sets.push_back(Dataset::open({settings.train[i]}, "train"));
    sets.push_back(Dataset::open({settings.test[i]}, "test"));
    for (std::size_t j = 2 * i; j < sets.size(); ++j) {
      expect_images_fit(sets[j], model.config);
      VITRAIL_EXPECT(sets[j].labels_per_image() == 1, ExitCode::data,
                     text(sets[j].name(), " has up to ", sets[j].labels_per_image(), " labels per image"),
                     "few-shot evaluation learns and tests one class per image", "");
    }
    VITRAIL_EXPECT(sets[2 * i].classes() == sets[2 * i + 1].classes(), ExitCode::data,
                   text(sets[2 * i].name(), " has ", sets[2 * i].classes(), " classes, ", sets[2 * i + 1].name(), " ",
                        sets[2 * i + 1].classes()),
                   "few-shot training and test images must have the same classes",
                   "Are --few-shot-train and --few-shot-test in the same order?");
  }
  Evaluator evaluator(model.config, model.layout, model.device, model.ops);
  std::vector<FewShotData> data;
  for (std::size_t i = 0; i < sets.size(); i += 2) {
    data.push_back({sets[i].name(), sets[i + 1].name(), features_of(sets[i], model, evaluator),
                    features_of(sets[i + 1], model, evaluator)});
  }
  return data;
}

/// Of one number of shots: accuracies [data set and seed][l2], the seeds of a data set together.
std::vector<std::vector<double>> accuracies_of(const std::vector<FewShotData>& data, const FewShotSettings& settings,
                                               std::int64_t shots, std::span<const double> l2, Communicator& world) {
  std::vector<std::vector<double>> accuracies;
  for (const FewShotData& set : data) {
    for (const std::int64_t seed : settings.seeds) {
      const ClassOrders orders =
          draw_class_orders(set.train.labels, set.train.classes, static_cast<std::uint64_t>(seed));
      const RidgeClassifier classifier(set.train, few_shot_rows(orders, shots));
      accuracies.emplace_back();
      for (const FewShotScore& score : score_on_ranks(classifier, set.test, l2, world)) {
        accuracies.back().push_back(static_cast<double>(score.correct) / static_cast<double>(set.test.images()));
      }
    }
  }
  return accuracies;
}

std::string cell(const std::string& word, std::size_t width) {
  return std::string(width - std::min(width, word.size()), ' ') + word;
}

Json to_array(const std::vector<double>& values) {
  Json array = Json::array();
  for (const double value : values) array.push_back(value);
  return array;
}

}  // namespace

Json evaluate_few_shot(const FewShotSettings& settings, const FewShotModel& model, const Log& log) {
  const std::vector<FewShotData> data = read_data(settings, model);
  const std::vector<double> l2 = few_shot_l2();
  const std::size_t seeds = settings.seeds.size();
  std::size_t width = std::string("regularisation").size();
  for (const FewShotData& set : data) width = std::max(width, set.test_name.size());
  std::string head = std::string(width, ' ');
  std::vector<std::string> lines;
  for (const FewShotData& set : data) lines.push_back(set.test_name + std::string(width - set.test_name.size(), ' '));
  std::string last = "regularisation" + std::string(width - std::string("regularisation").size(), ' ');

  std::vector<Json> rows(data.size(), Json::object());
  Json best_l2 = Json::array();
  Json shots = Json::array();
  for (const std::int64_t n : settings.shots) {
    const auto accuracies = accuracies_of(data, settings, n, l2, model.ranks.world);
    const std::size_t best = choose_l2(accuracies);
    shots.push_back(n);
    best_l2.push_back(l2[best]);
    head += cell(text(n, " shot", n == 1 ? "" : "s"), 12);
    last += cell(text(l2[best]), 12);
    for (std::size_t i = 0; i < data.size(); ++i) {
      double mean = 0;
      Json by_seed = Json::array();
      for (std::size_t seed = 0; seed < seeds; ++seed) {
        mean += accuracies[i * seeds + seed][best] / static_cast<double>(seeds);
        by_seed.push_back(to_array(accuracies[i * seeds + seed]));
      }
      lines[i] += cell(fixed(100 * mean, 2) + " %", 12);
      rows[i].set(text(n, "shot"), Json::object().set("accuracy", mean).set("accuracy_by_seed_and_l2", by_seed));
    }
  }
  log.info("\nfew-shot accuracy on test images", seeds > 1 ? text(", mean of ", seeds, " choices of images") : "");
  log.info(head);
  for (const std::string& line : lines) log.info(line);
  log.info(last);

  Json sets = Json::array();
  for (std::size_t i = 0; i < data.size(); ++i) {
    Json set = Json::object().set("train", data[i].name).set("test", data[i].test_name);
    set.set("train_images", data[i].train.images()).set("test_images", data[i].test.images());
    set.set("classes", data[i].train.classes).set("results", rows[i]);
    sets.push_back(std::move(set));
  }
  Json seed_list = Json::array();
  for (const std::int64_t seed : settings.seeds) seed_list.push_back(seed);
  return Json::object()
      .set("shots", shots)
      .set("l2", to_array(l2))
      .set("best_l2", best_l2)
      .set("seeds", seed_list)
      .set("data_sets", sets);
}

}  // namespace vitrail
