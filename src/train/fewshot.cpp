#include "train/fewshot.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/philox.hpp"

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Eigenvalues>

namespace vitrail {

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXd;
using Index = Eigen::Index;

constexpr double kConstantFeature = 100;
constexpr double kSmallestDeviation = 1e-5;
/// Test images that are scored together, whoever does it.
constexpr std::int64_t kPieceImages = 256;

/// Eigen cuts products by the sizes of the caches that it finds: one cut, and so one order of sums, for all machines.
void fix_order_of_sums() { Eigen::setCpuCacheSizes(32 << 10, 256 << 10, 2 << 20); }

/// Rows of a set as [rows D].
template <class Rows>
Matrix rows_of(const FeatureSet& set, const Rows& rows) {
  Matrix x(static_cast<Index>(rows.size()), static_cast<Index>(set.width));
  Index to = 0;
  for (const std::int64_t row : rows) {
    const float* from = set.features.data() + row * set.width;
    for (Index j = 0; j < x.cols(); ++j) x(to, j) = static_cast<double>(from[j]);
    ++to;
  }
  return x;
}

/// The best entry of a row, and how far it is before the second.
std::pair<Index, double> best_of(const Matrix& scores, Index row) {
  Index best = 0;
  double second = -std::numeric_limits<double>::infinity();
  for (Index v = 1; v < scores.cols(); ++v) {
    if (scores(row, v) > scores(row, best)) {
      second = scores(row, best);
      best = v;
    } else {
      second = std::max(second, scores(row, v));
    }
  }
  return {best, scores(row, best) - second};
}

}  // namespace

std::vector<double> few_shot_l2() {
  std::vector<double> l2;
  for (int exponent = -10; exponent < 20; ++exponent) l2.push_back(std::ldexp(1.0, exponent));
  return l2;
}

ClassOrders draw_class_orders(std::span<const std::int32_t> labels, std::int64_t classes, std::uint64_t seed) {
  std::vector<std::vector<std::pair<std::uint64_t, std::int64_t>>> drawn(static_cast<std::size_t>(classes));
  for (std::size_t image = 0; image < labels.size(); ++image) {
    const auto label = static_cast<std::size_t>(labels[image]);
    VITRAIL_EXPECT(label < drawn.size(), ExitCode::data, text("image ", image, " has the label ", labels[image]),
                   text("there are ", classes, " classes"), "");
    const Philox random(seed, Purpose::few_shot, label);
    const std::array<std::uint32_t, 4> words = random.words(image);
    drawn[label].emplace_back(std::uint64_t{words[0]} << 32 | words[1], static_cast<std::int64_t>(image));
  }
  ClassOrders orders;
  for (auto& of_class : drawn) {
    std::sort(of_class.begin(), of_class.end());
    orders.emplace_back();
    for (const auto& [key, image] : of_class) orders.back().push_back(image);
  }
  return orders;
}

std::vector<std::int64_t> few_shot_rows(const ClassOrders& orders, std::int64_t shots) {
  std::vector<std::int64_t> rows;
  for (const std::vector<std::int64_t>& of_class : orders) {
    const auto count = std::min<std::int64_t>(shots, static_cast<std::int64_t>(of_class.size()));
    rows.insert(rows.end(), of_class.begin(), of_class.begin() + count);
  }
  return rows;
}

struct RidgeClassifier::Solution {
  Vector mean;         // [D]
  Vector deviation;    // [D]
  Vector eigenvalues;  // [m], m = min(N, D+1)
  Matrix basis;        // [D+1 m]
  Matrix target;       // [m V]

  /// x [n D] -> [n D+1]
  [[nodiscard]] Matrix normalized(const Matrix& x) const {
    Matrix y(x.rows(), x.cols() + 1);
    for (Index i = 0; i < x.rows(); ++i) {
      for (Index j = 0; j < x.cols(); ++j) y(i, j) = (x(i, j) - mean[j]) / deviation[j];
    }
    y.col(x.cols()).setConstant(kConstantFeature);
    return y;
  }
  /// diag(1 / (eigenvalue + l2)) target [m V]
  [[nodiscard]] Matrix shrunk(double l2) const {
    return (eigenvalues.array() + l2).inverse().matrix().asDiagonal() * target;
  }
};

// X^T X = U diag(s) U^T:  W = U diag(1 / (s + l2)) U^T X^T Y      basis U,      target U^T X^T Y
// X X^T = U diag(s) U^T:  W = X^T U diag(1 / (s + l2)) U^T Y      basis X^T U,  target U^T Y
RidgeClassifier::RidgeClassifier(const FeatureSet& train, std::span<const std::int64_t> rows)
    : solution_(std::make_unique<Solution>()) {
  VITRAIL_EXPECT(!rows.empty(), ExitCode::data, "a few-shot classifier without training images",
                 "there is nothing to fit", "");
  fix_order_of_sums();
  Solution& s = *solution_;
  const Matrix selected = rows_of(train, rows);
  const auto n = static_cast<double>(selected.rows());
  s.mean = selected.colwise().sum().transpose() / n;
  const Matrix squares = (selected.rowwise() - s.mean.transpose()).array().square().matrix();
  s.deviation = ((squares.colwise().sum() / n).array().sqrt() + kSmallestDeviation).matrix().transpose();
  const Matrix x = s.normalized(selected);
  Matrix y = Matrix::Constant(x.rows(), static_cast<Index>(train.classes), -1);
  for (Index i = 0; i < x.rows(); ++i) {
    y(i, train.labels[static_cast<std::size_t>(rows[static_cast<std::size_t>(i)])]) = 1;
  }
  const bool tall = x.rows() >= x.cols();
  const Matrix gram = tall ? Matrix(x.transpose() * x) : Matrix(x * x.transpose());
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(gram);
  VITRAIL_EXPECT(solver.info() == Eigen::Success && gram.allFinite(), ExitCode::numbers,
                 text("the ridge regression of ", x.rows(), " images has no solution"),
                 "the features hold NaN or Inf, or the eigendecomposition does not converge", "");
  s.eigenvalues = solver.eigenvalues();
  s.basis = tall ? Matrix(solver.eigenvectors()) : Matrix(x.transpose() * solver.eigenvectors());
  s.target = tall ? Matrix(solver.eigenvectors().transpose() * (x.transpose() * y).eval())
                  : Matrix(solver.eigenvectors().transpose() * y);
}

RidgeClassifier::RidgeClassifier(RidgeClassifier&&) noexcept = default;
RidgeClassifier::~RidgeClassifier() = default;

std::vector<double> RidgeClassifier::mean() const { return {solution_->mean.begin(), solution_->mean.end()}; }

std::vector<double> RidgeClassifier::deviation() const {
  return {solution_->deviation.begin(), solution_->deviation.end()};
}

std::vector<double> RidgeClassifier::weights(double l2) const {
  const Matrix w = solution_->basis * solution_->shrunk(l2);
  return {w.data(), w.data() + w.size()};
}

std::vector<FewShotScore> RidgeClassifier::score(const FeatureSet& test, std::int64_t first, std::int64_t count,
                                                 std::span<const double> l2) const {
  VITRAIL_EXPECT(test.width == solution_->mean.size() && test.classes == solution_->target.cols(), ExitCode::data,
                 text("test images with ", test.width, " features and ", test.classes, " classes"),
                 text("the training images have ", solution_->mean.size(), " and ", solution_->target.cols()), "");
  fix_order_of_sums();
  std::vector<std::int64_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), first);
  // scores = (X basis) shrunk: the first product is the same for every l2.
  const Matrix coordinates = solution_->normalized(rows_of(test, rows)) * solution_->basis;  // [count m]
  std::vector<FewShotScore> scores;
  for (const double strength : l2) {
    const Matrix by_class = coordinates * solution_->shrunk(strength);  // [count V]
    FewShotScore score{0, std::numeric_limits<double>::infinity()};
    for (Index i = 0; i < by_class.rows(); ++i) {
      const auto [best, margin] = best_of(by_class, i);
      if (best == test.labels[static_cast<std::size_t>(first + i)]) ++score.correct;
      score.smallest_margin = std::min(score.smallest_margin, margin);
    }
    scores.push_back(score);
  }
  return scores;
}

std::vector<FewShotScore> score_on_ranks(const RidgeClassifier& classifier, const FeatureSet& test,
                                         std::span<const double> l2, Communicator& world) {
  std::vector<std::int64_t> correct(l2.size(), 0);
  // Of numbers from 0 up the bits have the order of the values, so that the exact minimum of integers serves.
  std::vector<std::int64_t> margins(l2.size(), std::bit_cast<std::int64_t>(std::numeric_limits<double>::infinity()));
  const std::int64_t pieces = (test.images() + kPieceImages - 1) / kPieceImages;
  for (std::int64_t piece = world.rank(); piece < pieces; piece += world.size()) {
    const std::int64_t first = piece * kPieceImages;
    const auto scores = classifier.score(test, first, std::min(kPieceImages, test.images() - first), l2);
    for (std::size_t i = 0; i < l2.size(); ++i) {
      correct[i] += scores[i].correct;
      margins[i] = std::min(margins[i], std::bit_cast<std::int64_t>(scores[i].smallest_margin));
    }
  }
  world.all_sum(correct);
  world.all_min(margins);
  std::vector<FewShotScore> all;
  for (std::size_t i = 0; i < l2.size(); ++i) all.push_back({correct[i], std::bit_cast<double>(margins[i])});
  return all;
}

std::size_t choose_l2(const std::vector<std::vector<double>>& accuracies) {
  VITRAIL_EXPECT(!accuracies.empty() && !accuracies.front().empty(), ExitCode::usage,
                 "no accuracies to choose a regularisation by", "at least one data set and one l2 are needed", "");
  // The sum of ranks is the mean's numerator, and exact.
  std::vector<std::int64_t> ranks(accuracies.front().size(), 0);
  for (const std::vector<double>& of_set : accuracies) {
    std::vector<std::size_t> order(ranks.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return of_set[a] < of_set[b]; });
    for (std::size_t rank = 0; rank < order.size(); ++rank) ranks[order[rank]] += static_cast<std::int64_t>(rank);
  }
  return static_cast<std::size_t>(std::max_element(ranks.begin(), ranks.end()) - ranks.begin());
}

}  // namespace vitrail
