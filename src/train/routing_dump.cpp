#include "train/routing_dump.hpp"

#include <algorithm>
#include <cmath>

#include "base/file.hpp"
#include "io/h5.hpp"

namespace vitrail {

namespace {

constexpr const char* kFormat = "vitrail-routing-1";

/// A run of images of one block, or their labels, as it travels: one array behind the other. Reals come first, so that
/// every array is aligned.
class PieceReader {
 public:
  explicit PieceReader(const std::vector<std::byte>& piece) : at_(piece.data()) {}
  ConstTensor take(Dtype dtype, Shape shape) {
    const ConstTensor part(at_, shape, dtype);
    at_ += part.bytes();
    return part;
  }

 private:
  const std::byte* at_;
};

double ratio(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

/// Shares of the assigned choices that were not kept.
std::vector<double> drop_rates(const std::vector<std::int64_t>& assigned, const std::vector<std::int64_t>& kept) {
  std::vector<double> rates;
  for (std::size_t i = 0; i < assigned.size(); ++i) rates.push_back(ratio(assigned[i] - kept[i], assigned[i]));
  return rates;
}

/// Counts over the images of the file.
struct BlockSums {
  BlockSums(std::int64_t choices, std::int64_t experts, std::int64_t classes)
      : assigned_by_rank(static_cast<std::size_t>(choices)),
        kept_by_rank(assigned_by_rank.size()),
        assigned(static_cast<std::size_t>(experts)),
        kept(assigned.size()),
        by_class(static_cast<std::size_t>(experts * classes)) {}

  std::vector<std::int64_t> assigned_by_rank, kept_by_rank;  // [K]
  std::vector<std::int64_t> assigned, kept;                  // [E]
  std::vector<std::int64_t> by_class;                        // [E V]
  std::int64_t tokens = 0;
  double entropy = 0;
};

/// H = -sum over experts of g log g.
template <class Real>
double entropy(const Real* gates, std::int64_t experts) {
  double sum = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const auto g = static_cast<double>(gates[e]);
    if (g > 0) sum -= g * std::log(g);
  }
  return sum;
}

}  // namespace

class RoutingDump::Writer {
 public:
  Writer(const RoutingDumpPlan& plan, const ModelConfig& config, Dtype real)
      : config_(config),
        real_(real),
        images_(plan.images),
        t_(config.tokens()),
        k_(config.choices()),
        path_(plan.path),
        unfinished_(plan.path.string() + ".tmp"),
        file_(h5::File::create(unfinished_, ExitCode::other)) {
    file_.write_string("/", "format", kFormat);
    file_.write_string("/", "checkpoint", plan.checkpoint);
    file_.write_integer("/", "step", plan.step);
    file_.write_string("/", "data", plan.data);
    file_.write_string("/", "settings", plan.settings);
    for (const auto& [name, value] : {std::pair{"images", images_},
                                      {"tokens", t_},
                                      {"experts", config.experts},
                                      {"choices", k_},
                                      {"slots", config.slots()},
                                      {"group_tokens", config.group_tokens()},
                                      {"classes", config.classes}}) {
      file_.write_integer("/", name, value);
    }
    predictions_.emplace(file_.create_dataset("predictions", Dtype::i32, {images_}));
    for (const std::int64_t block : config.moe_blocks) blocks_.emplace_back(*this, block);
  }

  void write_images(std::int64_t first, std::int64_t count, std::int64_t labels, PieceReader piece) {
    if (!labels_) {
      const h5::Shape shape = labels == 1 ? h5::Shape{images_} : h5::Shape{images_, labels};
      labels_.emplace(file_.create_dataset("labels", Dtype::i32, shape));
    }
    const ConstTensor label = piece.take(Dtype::i32, {count, labels});
    const ConstTensor predicted = piece.take(Dtype::i32, {count});
    first_labelled_ = first;
    labels_per_image_ = labels;
    label_values_.assign(label.as<std::int32_t>(), label.as<std::int32_t>() + label.elements());
    if (labels == 1) labels_->write_region(Dtype::i32, {first}, {count}, label.data);
    if (labels > 1) labels_->write_region(Dtype::i32, {first, 0}, {count, labels}, label.data);
    predictions_->write_region(Dtype::i32, {first}, {count}, predicted.data);
  }

  /// `block` counts MoE blocks.
  void write_routing(std::size_t block, std::int64_t first, std::int64_t count, PieceReader piece) {
    BlockFile& to = blocks_[block];
    const ConstTensor gates = piece.take(real_, {count, t_, config_.experts});
    const ConstTensor gate = piece.take(real_, {count, t_, k_});
    const ConstTensor selected = piece.take(Dtype::i32, {count, t_, k_});
    const ConstTensor slot = piece.take(Dtype::i32, {count, t_, k_});
    const auto write = [&](h5::Dataset& dataset, ConstTensor values) {
      dataset.write_region(values.dtype, {first, 0, 0}, {count, t_, values.shape[2]}, values.data);
    };
    write(to.gates, gates);
    write(to.gate, gate);
    write(to.selected, selected);
    write(to.slot, slot);
    write(to.kept, kept_flags(slot));
    if (real_ == Dtype::f64) {
      write_floats<double>(to, first, gates, gate);
    } else {
      write_floats<float>(to, first, gates, gate);
    }
    count_choices(to.sums, first, selected, slot);
  }

  void finish() {
    for (const BlockFile& block : blocks_) write_sums(block);
    blocks_.clear();
    labels_.reset();
    predictions_.reset();
    file_.close();
    rename_durably(unfinished_, path_, ExitCode::other);
  }

 private:
  struct BlockFile {
    BlockFile(Writer& w, std::int64_t block)
        : group(text("encoderblock_", block)),
          gates(w.file_.create_dataset(group + "/gates", w.real_, {w.images_, w.t_, w.config_.experts})),
          gate(w.file_.create_dataset(group + "/gate", w.real_, {w.images_, w.t_, w.k_})),
          selected(w.file_.create_dataset(group + "/selected", Dtype::i32, {w.images_, w.t_, w.k_})),
          slot(w.file_.create_dataset(group + "/slot", Dtype::i32, {w.images_, w.t_, w.k_})),
          kept(w.file_.create_dataset(group + "/kept", Dtype::u8, {w.images_, w.t_, w.k_})),
          priority(w.file_.create_dataset(group + "/priority", w.real_, {w.images_, w.t_})),
          sums(w.k_, w.config_.experts, w.config_.classes) {}
    std::string group;
    h5::Dataset gates, gate, selected, slot, kept, priority;
    BlockSums sums;
  };

  [[nodiscard]] bool is_kept(std::int32_t slot) const { return slot >= 0 && slot < config_.slots(); }

  ConstTensor kept_flags(ConstTensor slot) {
    flags_.resize(static_cast<std::size_t>(slot.elements()));
    std::transform(slot.as<std::int32_t>(), slot.as<std::int32_t>() + slot.elements(), flags_.begin(),
                   [this](std::int32_t s) { return static_cast<std::uint8_t>(is_kept(s)); });
    return {flags_.data(), slot.shape, Dtype::u8};
  }

  template <class Real>
  void write_floats(BlockFile& to, std::int64_t first, ConstTensor gates, ConstTensor gate) {
    const std::int64_t tokens = gate.shape[0] * t_;
    std::vector<Real> priority;
    for (std::int64_t token = 0; token < tokens; ++token) {
      const Real* const of_choices = gate.as<Real>() + token * k_;
      priority.push_back(*std::max_element(of_choices, of_choices + k_));
      to.sums.entropy += entropy(gates.as<Real>() + token * config_.experts, config_.experts);
    }
    to.sums.tokens += tokens;
    to.priority.write_region(real_, {first, 0}, {gate.shape[0], t_}, priority.data());
  }

  void count_choices(BlockSums& sums, std::int64_t first, ConstTensor selected, ConstTensor slots) const {
    for (std::int64_t i = 0; i < selected.elements(); ++i) {
      const std::int32_t slot = slots.as<std::int32_t>()[i];
      if (slot < 0) continue;
      const auto rank = static_cast<std::size_t>(i % k_);
      const auto expert = static_cast<std::size_t>(selected.as<std::int32_t>()[i]);
      std::int64_t* const by_class = sums.by_class.data() + static_cast<std::int64_t>(expert) * config_.classes;
      const std::int64_t kept = is_kept(slot) ? 1 : 0;
      ++sums.assigned_by_rank[rank];
      sums.kept_by_rank[rank] += kept;
      ++sums.assigned[expert];
      sums.kept[expert] += kept;
      const std::int64_t image = first - first_labelled_ + i / (t_ * k_);
      for (std::int64_t j = image * labels_per_image_; j < (image + 1) * labels_per_image_; ++j) {
        const std::int64_t label = label_values_[static_cast<std::size_t>(j)];
        if (label >= 0) ++by_class[label];
      }
    }
  }

  void write_sums(const BlockFile& block) {
    const BlockSums& sums = block.sums;
    const std::int64_t e = config_.experts;
    const std::vector<double> by_rank = drop_rates(sums.assigned_by_rank, sums.kept_by_rank);
    const std::vector<double> by_expert = drop_rates(sums.assigned, sums.kept);
    file_.write(block.group + "/drop_rate_by_rank", Dtype::f64, {k_}, by_rank.data());
    file_.write(block.group + "/assigned_by_expert", Dtype::i64, {e}, sums.assigned.data());
    file_.write(block.group + "/kept_by_expert", Dtype::i64, {e}, sums.kept.data());
    file_.write(block.group + "/drop_rate_by_expert", Dtype::f64, {e}, by_expert.data());
    file_.write(block.group + "/experts_by_class", Dtype::i64, {e, config_.classes}, sums.by_class.data());
    std::int64_t assigned = 0;
    std::int64_t kept = 0;
    for (const std::int64_t count : sums.assigned) assigned += count;
    for (const std::int64_t count : sums.kept) kept += count;
    file_.write_real(block.group, "drop_rate", ratio(assigned - kept, assigned));
    file_.write_real(block.group, "mean_gate_entropy",
                     sums.entropy / static_cast<double>(std::max<std::int64_t>(sums.tokens, 1)));
  }

  const ModelConfig config_;
  const Dtype real_;
  const std::int64_t images_, t_, k_;
  const std::filesystem::path path_, unfinished_;
  h5::File file_;
  std::optional<h5::Dataset> labels_, predictions_;
  std::int64_t labels_per_image_ = 0;
  std::int64_t first_labelled_ = 0;
  std::vector<std::int32_t> label_values_;  // of the run of images that was written last, from first_labelled_ on
  std::vector<BlockFile> blocks_;
  std::vector<std::uint8_t> flags_;
};

RoutingDump::RoutingDump(const RoutingDumpPlan& plan, const ModelConfig& config, const Layout& layout,
                         Communicator& world, Device& device, Dtype real)
    : plan_(plan), config_(config), layout_(layout), world_(world), device_(device) {
  VITRAIL_EXPECT(!config.moe_blocks.empty() && config.router.kind != RouterKind::soft, ExitCode::usage,
                 "the routing of this model cannot be written", "its tokens choose no experts", "");
  if (world.rank() == 0) writer_ = std::make_unique<Writer>(plan, config, real);
}

RoutingDump::~RoutingDump() = default;

void RoutingDump::add_pass(std::int64_t pass_begin, const Activations& acts) {
  for (int root = 0; root < world_.size(); ++root) {
    const std::int64_t first = pass_begin + root * layout_.pass_images();
    const std::int64_t count = std::clamp<std::int64_t>(plan_.images - first, 0, layout_.pass_images());
    if (count == 0) continue;
    add_images(root, first, count, acts);
    const MoeActivations& moe = acts.blocks[static_cast<std::size_t>(config_.moe_blocks.front())].moe;
    const std::int64_t bytes =
        (moe.gates_clean.bytes() + moe.gates.bytes() + 2 * moe.selected.bytes()) / layout_.pass_images();
    const std::int64_t most = std::max<std::int64_t>(1, plan_.piece_bytes / bytes);
    for (std::int64_t from = 0; from < count; from += most) {
      add_routing(root, first, from, std::min(most, count - from), acts);
    }
  }
}

/// What a tensor of all images of the pass holds of images first .. first + count - 1, at the end of the piece.
void RoutingDump::append_images(ConstTensor from, std::int64_t first, std::int64_t count) {
  const std::int64_t images = layout_.pass_images();
  const ConstTensor part = from.view({images, from.elements() / images}).slice(first, count);
  const std::size_t end = piece_.size();
  piece_.resize(end + static_cast<std::size_t>(part.bytes()));
  device_.copy(part, Tensor(piece_.data() + end, part.shape, part.dtype));
}

void RoutingDump::add_images(int root, std::int64_t first, std::int64_t count, const Activations& acts) {
  const std::int64_t images = layout_.pass_images();
  piece_.clear();
  append_images(acts.labels, 0, count);
  append_images(acts.predicted, 0, count);
  send_to_writer(root);
  if (writer_) writer_->write_images(first, count, acts.labels.elements() / images, PieceReader(piece_));
}

/// Images from .. from + count - 1 of the pass of rank `root`, whose first image is `first`.
void RoutingDump::add_routing(int root, std::int64_t first, std::int64_t from, std::int64_t count,
                              const Activations& acts) {
  for (std::size_t i = 0; i < config_.moe_blocks.size(); ++i) {
    const MoeActivations& moe = acts.blocks[static_cast<std::size_t>(config_.moe_blocks[i])].moe;
    piece_.clear();
    for (const Tensor& part : {moe.gates_clean, moe.gate ? moe.gate : moe.gates, moe.selected, moe.slot}) {
      append_images(part, from, count);
    }
    send_to_writer(root);
    if (writer_) writer_->write_routing(i, first + from, count, PieceReader(piece_));
  }
}

/// Every rank has filled the piece with its own numbers; those of `root` are wanted. The communicator has no verb that
/// sends to one rank alone, so all are sent the piece.
void RoutingDump::send_to_writer(int root) {
  if (root > 0) world_.broadcast(Tensor(piece_.data(), {std::ssize(piece_)}, Dtype::u8), root);
}

void RoutingDump::finish() {
  if (writer_) writer_->finish();
}

}  // namespace vitrail
