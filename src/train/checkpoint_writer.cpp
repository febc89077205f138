#include <algorithm>
#include <optional>
#include <vector>

#include <unistd.h>

#include "base/file.hpp"
#include "train/checkpoint.hpp"
#include "train/checkpoint_folder.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/checkpoint_part.hpp"

namespace vitrail {

namespace {

std::string host_name() {
  char name[256] = "?";
  ::gethostname(name, sizeof name - 1);
  return name;
}

/// Runs one rank's share of a phase; what it throws is kept for the agreement that follows.
template <class Work>
std::optional<Fault> attempt(Work work) {
  try {
    work();
    return std::nullopt;
  } catch (const Error& error) {
    return error.fault();
  } catch (const std::exception& error) {
    return Fault{error.what(), "", ""};
  }
}

/// One save: phases of work on each rank, each followed by an agreement of all ranks that it went well.
class Save {
 public:
  Save(Communicator& world, const std::filesystem::path& run_dir, const CheckpointInfo& info)
      : world_(world), folder_(run_dir), info_(info) {}

  void run(std::span<const CheckpointPiece> pieces, int keep_last) {
    agree_on_step();
    const std::string mine = describe(pieces);
    const std::vector<std::string> all = world_.all_gather_strings(mine);
    agree(attempt([&] {
      if (world_.rank() != 0) return;
      collect_tensors(all);
      folder_.begin(info_.step);
    }));
    write_and_verify(pieces);
    agree(attempt([&] {
      if (world_.rank() != 0) return;
      const std::filesystem::path unfinished = folder_.unfinished(info_.step);
      write_file_atomically(unfinished / kManifestName, manifest_text(manifest_), ExitCode::checkpoint);
      read_manifest(unfinished);
    }));
    agree(attempt([&] {
      if (world_.rank() == 0) folder_.publish(info_.step);
    }));
    if (world_.rank() == 0) folder_.prune(keep_last);
  }

 private:
  void agree_on_step() {
    std::int64_t steps[2] = {info_.step, -info_.step};
    world_.all_min(steps);
    VITRAIL_EXPECT(steps[0] == -steps[1] && steps[0] >= 0, ExitCode::checkpoint,
                   text("ranks save different steps: ", steps[0], " to ", -steps[1]),
                   "a checkpoint is one step of all ranks", "");
  }

  /// This rank's pieces as a table of tensors; file 0 stands for its own file.
  std::string describe(std::span<const CheckpointPiece> pieces) {
    StoredTensors tensors;
    agree(attempt([&] {
      for (const CheckpointPiece& piece : pieces) {
        check_piece(piece);
        StoredTensor& tensor =
            tensors.try_emplace(piece.tensor, StoredTensor{piece.shape, piece.data.dtype, {}}).first->second;
        expect_same_kind(piece.tensor, tensor, piece.shape, piece.data.dtype);
        const std::int64_t count = piece.data.elements();
        if (count > 0) tensor.pieces.push_back({0, piece_dataset(piece.tensor, piece.first), piece.first, count});
      }
    }));
    return tensors_to_json(tensors).dump();
  }

  static void expect_same_kind(const std::string& name, const StoredTensor& tensor, const Shape& shape, Dtype dtype) {
    VITRAIL_EXPECT(tensor.shape == shape && tensor.dtype == dtype, ExitCode::checkpoint,
                   text("tensor '", name, "' is ", name_of(tensor.dtype), " ", tensor.shape.str(), " in one piece and ",
                        name_of(dtype), " ", shape.str(), " in another"),
                   "all pieces of a tensor belong to one shape and dtype", "");
  }

  /// Rank 0: the pieces of all ranks as the table of the whole checkpoint.
  void collect_tensors(const std::vector<std::string>& described) {
    std::int64_t files = 0;
    for (const std::string& one : described) {
      const StoredTensors of_rank = tensors_from_json(Json::parse(one, "pieces of a rank", ExitCode::checkpoint));
      bool writes = false;
      for (const auto& [name, found] : of_rank) {
        StoredTensor& tensor =
            manifest_.tensors.try_emplace(name, StoredTensor{found.shape, found.dtype, {}}).first->second;
        expect_same_kind(name, tensor, found.shape, found.dtype);
        for (StoredPiece piece : found.pieces) {
          writes = true;
          piece.file = files;
          tensor.pieces.push_back(std::move(piece));
        }
      }
      if (writes) ++files;
    }
    sort_and_check_pieces(manifest_.tensors, "the pieces of all ranks");
    manifest_.info = info_;
  }

  /// Every rank that has something writes its file; rank 0 learns names, sizes and checksums.
  void write_and_verify(std::span<const CheckpointPiece> pieces) {
    const bool writes = std::any_of(pieces.begin(), pieces.end(), [](const auto& p) { return p.data.elements() > 0; });
    Json written;
    agree(attempt([&] {
      if (!writes) return;
      const std::filesystem::path path = folder_.unfinished(info_.step) / part_name(world_.rank(), world_.size());
      write_part(path, pieces);
      const CheckpointFile file = verify_part(path, pieces);
      written.set("name", file.name).set("bytes", file.bytes).set("sha256", file.sha256);
    }));
    for (const std::string& one : world_.all_gather_strings(written.dump())) {
      const Json file = Json::parse(one, "file of a rank", ExitCode::checkpoint);
      if (file.is_null()) continue;
      manifest_.files.push_back(
          {file.at("name").as_string(), file.at("bytes").as_integer(), file.at("sha256").as_string()});
    }
  }

  /// Collective. Where any rank failed: removes the unfinished checkpoint and throws the same Error on every rank.
  void agree(const std::optional<Fault>& mine) {
    std::int64_t ok = mine ? 0 : 1;
    world_.all_min({&ok, 1});
    if (ok == 1) return;

    Json said;
    if (mine) said.set("problem", mine->problem).set("why", mine->why).set("suggestion", mine->suggestion);
    said.set("host", host_name()).set("failed", mine.has_value());
    const std::vector<std::string> all = world_.all_gather_strings(said.dump());
    // All ranks have closed their files by now.
    if (world_.rank() == 0) folder_.abandon(info_.step);
    world_.barrier();
    report(all);
  }

  [[noreturn]] void report(const std::vector<std::string>& all) const {
    std::optional<Json> first;
    int rank_of_first = 0;
    int failed = 0;
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      Json said = Json::parse(all[rank], "report of a rank", ExitCode::checkpoint);
      if (!said.at("failed").as_bool()) continue;
      if (failed++ > 0) continue;
      first = std::move(said);
      rank_of_first = static_cast<int>(rank);
    }
    const auto word = [&](const char* key) { return first ? first->at(key).as_string() : std::string(); };
    const std::string others =
        failed > 1 ? text(" (and ", failed - 1, failed > 2 ? " more ranks)" : " more rank)") : "";
    const std::string advice = word("suggestion").empty() ? "" : word("suggestion") + ". ";
    fail(ExitCode::checkpoint, {text("the checkpoint of step ", info_.step, " was not saved: rank ", rank_of_first,
                                     " on ", word("host"), others, ": ", word("problem")),
                                word("why"), advice + "Checkpoints saved before are untouched"});
  }

  Communicator& world_;
  CheckpointFolder folder_;
  const CheckpointInfo& info_;
  CheckpointManifest manifest_;  ///< complete on rank 0 alone
};

}  // namespace

void save_checkpoint(Communicator& world, const std::filesystem::path& run_dir, const CheckpointInfo& info,
                     std::span<const CheckpointPiece> pieces, int keep_last) {
  Save(world, run_dir, info).run(pieces, keep_last);
}

}  // namespace vitrail
