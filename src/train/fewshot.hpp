#pragma once
// Few-shot evaluation: how well a linear classifier does that is fitted, in closed form, to the model's features of a
// few images per class. [V-MoE]
//
//   N training rows, D features; the columns normalised by the rows' own mean and deviation, then a constant column:
//   X = [(x - mean) / std, 100]   [N D+1]     std = population deviation + 1e-5       Y = 2 onehot - 1   [N V]
//   W = (X^T X + l2 I)^-1 X^T Y   where N >= D+1, else the same as X^T (X X^T + l2 I)^-1 Y
//   class of an image = argmax_v [(x - mean) / std, 100] W, the first of equal ones
//
// One eigendecomposition gives W for every l2. All in double, in a fixed order.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.hpp"

namespace vitrail {

/// Images as the head of a model sees them.
struct FeatureSet {
  std::vector<float> features;       ///< [n width]
  std::vector<std::int32_t> labels;  ///< [n]
  std::int64_t width = 0;            ///< D
  std::int64_t classes = 0;          ///< V; every label is below

  [[nodiscard]] std::int64_t images() const { return static_cast<std::int64_t>(labels.size()); }
};

/// The 30 strengths of regularisation of the original: 2^-10, 2^-9 ... 2^19.
std::vector<double> few_shot_l2();

/// Of every class, its training images in an order of chance: n shots take the first n of each.
using ClassOrders = std::vector<std::vector<std::int64_t>>;

/// Drawn by Philox: a function of (seed, class, number of the image), so more images do not change the order of those
/// there were. The original draws with NumPy's default_rng and takes other images.
ClassOrders draw_class_orders(std::span<const std::int32_t> labels, std::int64_t classes, std::uint64_t seed);

/// The rows of `shots` images per class, class by class; all of a class that has fewer.
std::vector<std::int64_t> few_shot_rows(const ClassOrders& orders, std::int64_t shots);

/// What a classifier does on test images, for one l2.
struct FewShotScore {
  std::int64_t correct = 0;
  double smallest_margin = 0;  ///< between the best score of an image and its second; infinite for a single class
};

class RidgeClassifier {
 public:
  /// Fits to `rows` of the set. Error (data) when there are none.
  RidgeClassifier(const FeatureSet& train, std::span<const std::int64_t> rows);
  RidgeClassifier(RidgeClassifier&&) noexcept;
  ~RidgeClassifier();

  [[nodiscard]] std::vector<double> mean() const;              ///< [D]
  [[nodiscard]] std::vector<double> deviation() const;         ///< [D]: population deviation + 1e-5
  [[nodiscard]] std::vector<double> weights(double l2) const;  ///< [D+1 V]
  /// Images first .. first + count - 1 of a set with as many features, at every l2.
  [[nodiscard]] std::vector<FewShotScore> score(const FeatureSet& test, std::int64_t first, std::int64_t count,
                                                std::span<const double> l2) const;

 private:
  struct Solution;
  std::unique_ptr<Solution> solution_;
};

/// Scores of all test images at every l2, shared out over the ranks in fixed pieces: the same on any number of them.
/// Collective; every rank holds the whole set.
std::vector<FewShotScore> score_on_ranks(const RidgeClassifier& classifier, const FeatureSet& test,
                                         std::span<const double> l2, Communicator& world);

/// Which l2 all data sets share: accuracies [data set][l2] are ranked within each data set (equal ones in the order of
/// l2), and the l2 of the largest mean rank is taken, the first of equal ones. Index into l2.
std::size_t choose_l2(const std::vector<std::vector<double>>& accuracies);

}  // namespace vitrail
