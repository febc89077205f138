// Golden files of kind=fewshot.

#include <algorithm>

#include "apps/golden_config.hpp"
#include "apps/golden_kinds.hpp"
#include "train/fewshot.hpp"

namespace vitrail {

namespace {

/// As in every double back end: nothing here depends on what computes.
constexpr GoldenTolerances kTolerances{1e-9, 1e-9, 1e-9};
/// The accuracies are means in f32.
constexpr double kAccuracyTolerance = 0x1p-23;
/// Two classes whose scores are closer may change places: round-off decides.
constexpr double kSmallestMargin = 1e-9;
/// The weights of these are in the file.
const std::vector<double> kShownL2 = {0x1p-10, 1.0, 0x1p10};

std::vector<std::int32_t> labels_of(const GoldenFile& file, const std::string& dataset) {
  return file.h5().read<std::int32_t>(dataset);
}

FeatureSet read_set(const GoldenFile& file, const std::string& at, const std::string& which, std::int64_t classes) {
  const h5::Shape shape = file.shape(at + "/" + which + "_features");
  FeatureSet set;
  set.features = file.h5().read<float>(at + "/" + which + "_features");
  set.labels = labels_of(file, at + "/" + which + "_labels");
  set.classes = classes;
  VITRAIL_EXPECT(shape.size() == 2 && shape[0] == set.images(), ExitCode::data,
                 text("'", at, "' has ", set.images(), " labels in ", which), "its features are not [labels, width]",
                 "");
  set.width = shape[1];
  const bool fits = std::all_of(set.labels.begin(), set.labels.end(),
                                [&](std::int32_t label) { return label >= 0 && label < classes; });
  VITRAIL_EXPECT(fits, ExitCode::data, text("'", at, "' has a label outside its ", classes, " classes in ", which),
                 "labels count from 0", "");
  return set;
}

/// The order of every class's images, as the original drew it: [classes, images of a class].
ClassOrders read_orders(const GoldenFile& file, const std::string& at) {
  const h5::Shape shape = file.shape(at + "/class_permutation");
  VITRAIL_EXPECT(shape.size() == 2, ExitCode::data, text("'", at, "/class_permutation' has ", shape.size(), " axes"),
                 "it is [classes, images of a class]", "");
  const std::vector<std::int64_t> all = file.h5().read<std::int64_t>(at + "/class_permutation");
  ClassOrders orders;
  for (auto from = all.begin(); from != all.end(); from += shape[1]) orders.emplace_back(from, from + shape[1]);
  return orders;
}

GoldenQuantity reals(std::vector<double> values, const h5::Shape& shape) { return {std::move(values), shape}; }

/// What the file holds of one number of shots, by its names; appends to `correct` [shots l2]. Returns the smallest
/// margins [l2].
std::vector<double> run_shots(const GoldenFile& file, const std::string& at, std::int64_t shots,
                              const FeatureSet& train, const FeatureSet& test, const std::vector<double>& l2,
                              GoldenQuantities& out, std::vector<double>& correct) {
  const std::vector<std::int64_t> rows = few_shot_rows(read_orders(file, at), shots);
  VITRAIL_EXPECT(std::all_of(rows.begin(), rows.end(), [&](auto row) { return row >= 0 && row < train.images(); }),
                 ExitCode::data, text("'", at, "/class_permutation' names images that are not there"),
                 text("there are ", train.images()), "");
  const RidgeClassifier classifier(train, rows);
  const std::string group = text("shot_", shots, "/");
  out[group + "selected"] = {
      {rows.begin(), rows.end()}, {static_cast<std::int64_t>(rows.size())}, GoldenQuantity::Kind::integers};
  out[group + "mean"] = reals(classifier.mean(), {train.width});
  out[group + "std"] = reals(classifier.deviation(), {train.width});
  GoldenQuantity& weights = out[group + "weights"];
  weights.shape = {static_cast<std::int64_t>(kShownL2.size()), train.width + 1, train.classes};
  for (const double strength : kShownL2) {
    const std::vector<double> one = classifier.weights(strength);
    weights.values.insert(weights.values.end(), one.begin(), one.end());
  }
  std::vector<double> margins;
  for (const FewShotScore& score : classifier.score(test, 0, test.images(), l2)) {
    margins.push_back(score.smallest_margin);
    correct.push_back(static_cast<double>(score.correct));
  }
  return margins;
}

/// Right answers that round-off decides are taken from the file.
void take_undecided(const GoldenFile& file, const std::string& at, std::size_t first, const std::string& margins,
                    std::vector<double>& correct) {
  const std::vector<double> expected = file.reals(at + "/correct");
  const std::vector<double> margin = file.reals(at + "/" + margins);
  for (std::size_t i = 0; i < margin.size() && first + i < expected.size(); ++i) {
    if (margin[i] < kSmallestMargin) correct[first + i] = expected[first + i];
  }
}

/// One data set. Returns its accuracies [shots][l2].
std::vector<std::vector<double>> run_data_set(const GoldenFile& file, const std::string& at,
                                              const std::vector<std::int64_t>& shots, const std::vector<double>& l2,
                                              GoldenReport& report) {
  const std::int64_t classes = file.shape(at + "/class_permutation").at(0);
  const FeatureSet train = read_set(file, at, "train", classes);
  const FeatureSet test = read_set(file, at, "test", classes);
  GoldenQuantities out;
  std::vector<double> correct;
  std::vector<std::string> inputs = {"accuracy",      "train_features", "train_labels",
                                     "test_features", "test_labels",    "class_permutation"};
  for (const std::int64_t n : shots) {
    const std::size_t first = correct.size();
    const std::vector<double> computed = run_shots(file, at, n, train, test, l2, out, correct);
    const std::string margins = text("shot_", n, "/min_score_margin");
    if (!file.h5().has(at + "/" + margins)) continue;
    // Differences of scores, which lie about -1 and 1.
    report.compare(at + "/" + margins, computed, file.reals(at + "/" + margins), 1.0, kTolerances.outputs);
    take_undecided(file, at, first, margins, correct);
    inputs.push_back(margins);
  }
  const h5::Shape shape{static_cast<std::int64_t>(shots.size()), static_cast<std::int64_t>(l2.size())};
  out["correct"] = {correct, shape, GoldenQuantity::Kind::integers};
  file.compare({.name = at, .required = {"correct", "accuracy"}, .inputs = inputs}, out, kTolerances, report);
  std::vector<std::vector<double>> accuracies(shots.size());
  for (std::size_t i = 0; i < correct.size(); ++i) {
    correct[i] /= static_cast<double>(test.images());
    accuracies[i / l2.size()].push_back(correct[i]);
  }
  report.compare(at + "/accuracy", correct, file.reals(at + "/accuracy"), 1.0, kAccuracyTolerance);
  return accuracies;
}

}  // namespace

void run_golden_fewshot(const GoldenFile& file, GoldenReport& report) {
  ConfigKeys keys(file.config(), "config");
  // The features, the drawn orders, shots and l2 are datasets of the file.
  for (const char* key : {"datasets", "l2_regs", "shots", "permute_seed", "seed", "sub_seed"}) keys.ignore(key);
  keys.done();
  const std::vector<std::int64_t> shots = file.h5().read<std::int64_t>("/shots");
  const std::vector<double> l2 = file.reals("/l2_regs");
  std::vector<std::vector<std::vector<double>>> by_shots(shots.size());  // [shots][data set][l2]
  for (const h5::Child& child : file.h5().children("/")) {
    if (!child.is_group) continue;
    auto accuracies = run_data_set(file, "/" + child.name, shots, l2, report);
    for (std::size_t i = 0; i < shots.size(); ++i) by_shots[i].push_back(std::move(accuracies[i]));
  }
  std::vector<double> best;
  for (const auto& accuracies : by_shots) best.push_back(l2[choose_l2(accuracies)]);
  report.compare_exactly("/best_l2", best, file.reals("/best_l2"));
}

}  // namespace vitrail
