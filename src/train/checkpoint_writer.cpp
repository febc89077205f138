#include <algorithm>
#include <optional>
#include <vector>

#include "base/file.hpp"
#include "base/timer.hpp"
#include "train/agreement.hpp"
#include "train/checkpoint.hpp"
#include "train/checkpoint_folder.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/checkpoint_part.hpp"

namespace vitrail {

namespace {

/// Who writes which file, and when. With W writers, ranks form W groups of consecutive ranks, and those of a group that
/// have pieces append them to one file in turn: one opens it when the one before has closed it and forced it to disk.
/// This works on every file system; files that several processes have open at a time do not (on NFS a client may see
/// old bytes). The turns of all groups begin together, because the ranks agree after each that all went well: so groups
/// need no communicators of their own, and a full disk is noticed at once. Owners' shares are nearly equal, so little
/// time is lost by it.
struct WritingOrder {
  int files = 0;             ///< of the checkpoint, in its files' names: one for each group
  int group = 0;             ///< of this rank
  int turns = 0;             ///< of the longest group
  int turn = -1;             ///< this rank's; -1: it has no pieces
  bool is_last = false;      ///< of its group
  std::int64_t file = 0;     ///< index of the group's file among those that are written
  std::vector<int> members;  ///< ranks of the group

  /// `pieces`: how many each rank writes.
  WritingOrder(int writers, int rank, const std::vector<std::int64_t>& pieces) {
    const int ranks = static_cast<int>(pieces.size());
    files = writers > 0 ? std::min(writers, ranks) : ranks;
    const auto group_of = [&](int r) { return static_cast<int>(std::int64_t{r} * files / ranks); };
    group = group_of(rank);
    std::vector<int> taken(static_cast<std::size_t>(files), 0);
    for (int other = 0; other < ranks; ++other) {
      if (group_of(other) == group) members.push_back(other);
      if (pieces[static_cast<std::size_t>(other)] == 0) continue;
      int& next = taken[static_cast<std::size_t>(group_of(other))];
      if (next == 0 && group_of(other) < group) ++file;
      if (other == rank) turn = next;
      turns = std::max(turns, ++next);
    }
    is_last = turn >= 0 && turn + 1 == taken[static_cast<std::size_t>(group)];
  }
};

/// One save: phases of work on each rank, each followed by an agreement of all ranks that it went well.
class Save {
 public:
  Save(Communicator& world, const std::filesystem::path& run_dir, const CheckpointInfo& info)
      : world_(world), folder_(run_dir), info_(info) {}

  SaveReport run(std::span<const CheckpointPiece> pieces, const SaveOptions& options) {
    const Stopwatch clock;
    agree_on_step();
    const std::vector<std::string> planned = world_.all_gather_strings(describe(pieces));
    agree(attempt([&] {
      if (world_.rank() != 0) return;
      (void)collect_tensors(planned);
      folder_.begin(info_.step);
    }));
    write_and_verify(pieces, options);
    agree(attempt([&] {
      if (world_.rank() != 0) return;
      const std::filesystem::path unfinished = folder_.unfinished(info_.step);
      write_file_atomically(unfinished / kManifestName, manifest_text(manifest_), ExitCode::checkpoint);
      (void)read_manifest(unfinished);
    }));
    agree(attempt([&] {
      if (world_.rank() == 0) folder_.publish(info_.step);
    }));
    if (world_.rank() == 0) folder_.prune(options.keep_last, options.keep_every);
    std::int64_t bytes = 0;
    for (const CheckpointPiece& piece : pieces) bytes += piece.data.bytes();
    world_.all_sum({&bytes, 1});
    return {bytes, clock.seconds()};
  }

 private:
  void agree_on_step() {
    std::int64_t steps[2] = {info_.step, -info_.step};
    world_.all_min(steps);
    VITRAIL_EXPECT(steps[0] == -steps[1] && steps[0] >= 0, ExitCode::checkpoint,
                   text("ranks save different steps: ", steps[0], " to ", -steps[1]),
                   "a checkpoint is one step of all ranks", "");
  }

  /// This rank's pieces as a table of tensors, before they have a place.
  std::string describe(std::span<const CheckpointPiece> pieces) {
    agree(attempt([&] {
      for (const CheckpointPiece& piece : pieces) {
        check_piece(piece);
        StoredTensor& tensor =
            mine_.try_emplace(piece.tensor, StoredTensor{piece.shape, piece.data.dtype, {}}).first->second;
        expect_same_kind(piece.tensor, tensor, piece.shape, piece.data.dtype);
        const std::int64_t count = piece.data.elements();
        if (count > 0) tensor.pieces.push_back({0, piece.first, count, 0, {}});
      }
    }));
    return tensors_to_json(mine_).dump();
  }

  static void expect_same_kind(const std::string& name, const StoredTensor& tensor, const Shape& shape, Dtype dtype) {
    VITRAIL_EXPECT(tensor.shape == shape && tensor.dtype == dtype, ExitCode::checkpoint,
                   text("tensor '", name, "' is ", name_of(tensor.dtype), " ", tensor.shape.str(), " in one piece and ",
                        name_of(dtype), " ", shape.str(), " in another"),
                   "all pieces of a tensor belong to one shape and dtype", "");
  }

  static StoredTensors tensors_of_rank(const std::string& described) {
    return tensors_from_json(Json::parse(described, "pieces of a rank", ExitCode::checkpoint));
  }

  /// The pieces of all ranks as the table of the whole checkpoint.
  static StoredTensors collect_tensors(const std::vector<std::string>& described) {
    StoredTensors tensors;
    for (const std::string& one : described) {
      for (auto& [name, found] : tensors_of_rank(one)) {
        StoredTensor& tensor = tensors.try_emplace(name, StoredTensor{found.shape, found.dtype, {}}).first->second;
        expect_same_kind(name, tensor, found.shape, found.dtype);
        tensor.pieces.insert(tensor.pieces.end(), found.pieces.begin(), found.pieces.end());
      }
    }
    sort_and_check_pieces(tensors, "the pieces of all ranks");
    return tensors;
  }

  WritingOrder writing_order(std::span<const CheckpointPiece> pieces, int writers) {
    const std::int64_t mine =
        std::count_if(pieces.begin(), pieces.end(), [](const auto& piece) { return piece.data.elements() > 0; });
    std::vector<std::int64_t> all(static_cast<std::size_t>(world_.size()));
    world_.all_gather(ConstTensor(&mine, {1}, Dtype::i64), Tensor(all.data(), {world_.size()}, Dtype::i64));
    return {writers, world_.rank(), all};
  }

  /// Every rank that has something writes it when it is its turn, and reads it back; the last one of a file, which is
  /// complete then, sums up what lies between the pieces. Rank 0 learns of all.
  void write_and_verify(std::span<const CheckpointPiece> pieces, const SaveOptions& options) {
    const WritingOrder order = writing_order(pieces, options.writers);
    const std::filesystem::path path = folder_.unfinished(info_.step) / part_name(order.group, order.files);
    for (int turn = 0; turn < order.turns; ++turn) {
      agree(attempt([&] {
        if (turn != order.turn) return;
        const auto opening = turn == 0 ? PartWriter::Opening::create : PartWriter::Opening::append;
        mine_ = write_part(path, opening, pieces, options.alive);
      }));
    }
    for (auto& [name, tensor] : mine_) {
      for (StoredPiece& piece : tensor.pieces) piece.file = order.file;
    }
    const std::vector<std::string> all = world_.all_gather_strings(tensors_to_json(mine_).dump());
    Json written;
    agree(attempt([&] {
      if (order.turn >= 0) verify_part(path, mine_, options.alive);
      if (!order.is_last) return;
      const CheckpointFile file = describe_part(path, extents_of(order, all));
      written.set("name", file.name).set("bytes", file.bytes).set("sum", file.sum);
    }));
    for (const std::string& one : world_.all_gather_strings(written.dump())) {
      const Json file = Json::parse(one, "file of a rank", ExitCode::checkpoint);
      if (file.is_null()) continue;
      manifest_.files.push_back(
          {file.at("name").as_string(), file.at("bytes").as_integer(), file.at("sum").as_string()});
    }
    agree(attempt([&] {
      if (world_.rank() != 0) return;
      manifest_.tensors = collect_tensors(all);
      manifest_.info = info_;
    }));
  }

  /// Where the pieces of this rank's file lie.
  static std::vector<Extent> extents_of(const WritingOrder& order, const std::vector<std::string>& described) {
    std::vector<Extent> extents;
    for (const int rank : order.members) {
      for (const auto& [name, tensor] : tensors_of_rank(described[static_cast<std::size_t>(rank)])) {
        for (const StoredPiece& piece : tensor.pieces) extents.push_back(extent_of(piece, tensor.dtype));
      }
    }
    return extents;
  }

  /// Collective. Where any rank failed: removes the unfinished checkpoint and throws the same Error on every rank.
  void agree(const std::optional<Fault>& mine) {
    const std::optional<RankFault> first = agree_on_fault(world_, mine);
    if (!first) return;
    // All ranks have closed their files by now.
    if (world_.rank() == 0) folder_.abandon(info_.step);
    world_.barrier();
    const std::string advice = first->fault.suggestion.empty() ? "" : first->fault.suggestion + ". ";
    fail(ExitCode::checkpoint,
         {text("the checkpoint of step ", info_.step, " was not saved: ", first->who(), ": ", first->fault.problem),
          first->fault.why, advice + "Checkpoints saved before are untouched"});
  }

  Communicator& world_;
  CheckpointFolder folder_;
  const CheckpointInfo& info_;
  StoredTensors mine_;           ///< this rank's pieces
  CheckpointManifest manifest_;  ///< complete on rank 0 alone
};

}  // namespace

SaveReport save_checkpoint(Communicator& world, const std::filesystem::path& run_dir, const CheckpointInfo& info,
                           std::span<const CheckpointPiece> pieces, const SaveOptions& options) {
  return Save(world, run_dir, info).run(pieces, options);
}

}  // namespace vitrail
