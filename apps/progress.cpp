#include "apps/progress.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <system_error>

#include <unistd.h>

namespace vitrail {

std::string fixed(double value, int decimals) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  return buffer;
}

std::string duration(double seconds) {
  if (!(seconds < 360000)) return "long";
  const auto whole = static_cast<long>(std::llround(seconds));
  if (whole >= 3600) return text(whole / 3600, " h ", whole / 60 % 60 < 10 ? "0" : "", whole / 60 % 60, " min");
  if (whole >= 60) return text(whole / 60, " min ", whole % 60 < 10 ? "0" : "", whole % 60, " s");
  return fixed(seconds, 1) + " s";
}

Json to_json(const Metrics& metrics) {
  Json json = Json::object();
  json.set("images", metrics.images)
      .set("correct", metrics.correct)
      .set("accuracy", metrics.accuracy())
      .set("loss", metrics.total_loss())
      .set("main_loss", metrics.main_loss)
      .set("auxiliary_loss", metrics.auxiliary_loss);
  if (metrics.moe.empty()) return json;
  json.set("drop_rate", metrics.drop_rate())
      .set("processed_rate", metrics.processed_rate())
      .set("load_imbalance", metrics.load_imbalance());
  Json blocks = Json::array();
  for (const MoeMetrics& moe : metrics.moe) {
    Json assigned = Json::array();
    Json kept = Json::array();
    for (const std::int64_t count : moe.assigned) assigned.push_back(count);
    for (const std::int64_t count : moe.kept) kept.push_back(count);
    blocks.push_back(Json::object()
                         .set("block", moe.block)
                         .set("importance_loss", moe.importance_loss)
                         .set("load_loss", moe.load_loss)
                         .set("gshard_loss", moe.gshard_loss)
                         .set("assigned", std::move(assigned))
                         .set("kept", std::move(kept))
                         .set("processed", moe.processed));
  }
  json.set("moe", std::move(blocks));
  return json;
}

Json to_json(const StepReport& report) {
  Json json = Json::object();
  json.set("step", report.step);
  const Json metrics = to_json(report.metrics);
  for (const JsonMember& member : metrics.members()) json.set(member.key, member.value);
  json.set("learning_rate", report.learning_rate);
  if (report.whole_norm) json.set("gradient_norm", report.gradient_norm);
  json.set("clipped", report.clipped);
  return json;
}

MetricsFile::MetricsFile(const std::filesystem::path& run_dir, std::int64_t step) : path_(run_dir / "metrics.jsonl") {
  // Keep whole lines up to `step`; a line that a crash cut short is not whole.
  std::uintmax_t keep = 0;
  {
    std::ifstream old(path_);
    for (std::string line; std::getline(old, line) && !old.eof();) {
      const Json parsed = Json::parse(line, path_.string(), ExitCode::other);
      if (parsed.at("step").as_integer() > step) break;
      keep += line.size() + 1;
    }
  }
  std::error_code missing;
  if (std::filesystem::exists(path_, missing)) std::filesystem::resize_file(path_, keep);
  file_.reset(std::fopen(path_.c_str(), "a"));
  if (file_ == nullptr) fail_to_write();
}

void MetricsFile::write(const StepReport& report, const Json& time) {
  const std::string written = to_json(report).set("time", time).dump() + "\n";
  const bool whole =
      std::fwrite(written.data(), 1, written.size(), file_.get()) == written.size() && std::fflush(file_.get()) == 0;
  if (!whole) fail_to_write();
}

// As for a checkpoint: the run directory is full, or gone, and the run can go on when it is not.
void MetricsFile::fail_to_write() const {
  fail(ExitCode::checkpoint, {text(path_.string(), " cannot be written"), std::generic_category().message(errno),
                              "Check permissions and free space"});
}

bool stdout_is_a_terminal() {
  // Open MPI, srun and every launcher that speaks PMI or PMIx.
  for (const char* launched : {"OMPI_COMM_WORLD_SIZE", "SLURM_PROCID", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(launched) != nullptr) return false;
  }
  return isatty(STDOUT_FILENO) != 0;
}

Progress::Progress(const Log& log, std::int64_t first_step, std::int64_t last_step, std::int64_t images_per_step,
                   bool terminal)
    : log_(log),
      first_step_(first_step),
      last_step_(last_step),
      images_per_step_(images_per_step),
      terminal_(terminal) {}

void Progress::after(const StepReport& report) {
  const std::int64_t done = report.step - first_step_;
  const double loss = report.metrics.total_loss();
  loss_ = done == 1 ? loss : loss_ + (loss - loss_) * std::max(0.02, 1.0 / static_cast<double>(done));
  const double now = clock_.seconds();
  const bool last = report.step == last_step_;
  if (!last && now - shown_at_s_ < (terminal_ ? 0.2 : 10.0)) return;
  shown_at_s_ = now;
  const double per_step = now / static_cast<double>(done);
  std::string line =
      text("step ", report.step, "/", last_step_, "  loss ", fixed(loss_, 4), "  lr ", fixed(report.learning_rate, 6),
           "  ", fixed(static_cast<double>(images_per_step_) / per_step, 0), " images/s");
  if (!report.metrics.moe.empty()) line += text("  dropped ", fixed(100 * report.metrics.drop_rate(), 1), " %");
  line += text("  left ", duration(per_step * static_cast<double>(last_step_ - report.step)));
  if (terminal_) {
    std::fprintf(stdout, "\r%s\033[K", line.c_str());
    std::fflush(stdout);
    line_open_ = true;
  } else {
    log_.info(line);
  }
}

void Progress::finish() {
  if (line_open_) log_.info("");
  line_open_ = false;
}

}  // namespace vitrail
