#include "apps/launch_check.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <map>
#include <string_view>

#include <unistd.h>

#include "apps/cpu_binding.hpp"
#include "apps/rank_names.hpp"
#include "base/sha256.hpp"
#include "comm/process.hpp"

namespace vitrail {

namespace {

constexpr std::array<std::string_view, 4> kMayDiffer = {"config", "data", "gpu", "preset"};
constexpr std::string_view kDigits = "0123456789abcdef";

int count_cpus(const std::string& cpus) {
  int count = 0;
  for (const char digit : cpus) count += std::popcount(static_cast<unsigned>(kDigits.find(digit)));
  return count;
}

/// The CPUs of either.
std::string joined(std::string a, const std::string& b) {
  if (a.size() < b.size()) a.resize(b.size(), '0');
  for (std::size_t i = 0; i < b.size(); ++i) a[i] = kDigits[kDigits.find(a[i]) | kDigits.find(b[i])];
  return a;
}

struct Node {
  std::int64_t ranks = 0;
  std::string cpus;
  std::int64_t claimed_cpus = 0;
  [[nodiscard]] std::int64_t usable() const { return std::max<std::int64_t>({count_cpus(cpus), claimed_cpus, 1}); }
};

std::vector<std::pair<std::string, Node>> nodes_of(const std::vector<RankFacts>& ranks) {
  std::map<std::string, Node> nodes;
  for (const RankFacts& rank : ranks) {
    Node& node = nodes[rank.host];
    ++node.ranks;
    node.cpus = joined(node.cpus, rank.cpus);
    node.claimed_cpus = std::max(node.claimed_cpus, rank.claimed_cpus);
  }
  return {nodes.begin(), nodes.end()};
}

std::string counted(std::int64_t count, const char* what) { return text(count, " ", what, count == 1 ? "" : "s"); }

/// The ranks whose value is not that of rank 0, in order.
template <class Value>
std::vector<std::int64_t> ranks_unlike_the_first(std::size_t ranks, const Value& value) {
  std::vector<std::int64_t> unlike;
  for (std::size_t rank = 1; rank < ranks; ++rank) {
    if (value(rank) != value(0)) unlike.push_back(static_cast<std::int64_t>(rank));
  }
  return unlike;
}

std::vector<std::string> hosts_of(const std::vector<RankFacts>& ranks) {
  std::vector<std::string> hosts;
  hosts.reserve(ranks.size());
  for (const RankFacts& rank : ranks) hosts.push_back(rank.host);
  return hosts;
}

/// A setting's values as on a command line.
std::string shown(const Json* values) {
  if (values == nullptr || values->items().empty()) return "nothing";
  std::string all;
  for (const Json& value : values->items()) all += (all.empty() ? "" : " ") + value.as_string();
  return all;
}

/// "--seed (0 and 1), --batch (...)": of the settings that differ, the first ones.
std::string differences(const Json& a, const Json& b) {
  constexpr std::size_t kMostShown = 3;
  std::vector<std::string> names;
  for (const Json* side : {&a, &b}) {
    for (const JsonMember& member : side->members()) {
      const Json *left = a.find(member.key), *right = b.find(member.key);
      const bool same = left != nullptr && right != nullptr && *left == *right;
      if (!same && std::find(names.begin(), names.end(), member.key) == names.end()) names.push_back(member.key);
    }
  }
  std::string all;
  for (std::size_t i = 0; i < std::min(names.size(), kMostShown); ++i) {
    all += text(i == 0 ? "--" : ", --", names[i], " (", shown(a.find(names[i])), " and ", shown(b.find(names[i])), ")");
  }
  return names.size() > kMostShown ? text(all, " and ", names.size() - kMostShown, " more") : all;
}

/// Of a simulated node, which has more CPUs by the batch system's count than the machine has: then that is meant.
std::int64_t cpus_of_simulated_node() {
  const char* count = std::getenv("SLURM_CPUS_ON_NODE");
  const std::int64_t claimed = count == nullptr ? 0 : std::strtoll(count, nullptr, 10);
  return claimed > sysconf(_SC_NPROCESSORS_ONLN) ? claimed : 0;
}

}  // namespace

Json to_json(const RankFacts& facts) {
  return Json::object()
      .set("host", facts.host)
      .set("cpus", facts.cpus)
      .set("claimed_cpus", facts.claimed_cpus)
      .set("binary", facts.binary)
      .set("settings", facts.settings);
}

RankFacts rank_facts(const Json& json) {
  return {json.at("host").as_string(), json.at("cpus").as_string(), json.at("claimed_cpus").as_integer(),
          json.at("binary").as_string(), json.at("settings").as_string()};
}

std::string cpus_of_thread() {
  std::string digits;
  for (const int cpu : bound_cpus()) {
    const auto place = static_cast<std::size_t>(cpu / 4);
    digits.resize(std::max(digits.size(), place + 1), '0');
    digits[place] = kDigits[kDigits.find(digits[place]) | (1U << static_cast<unsigned>(cpu % 4))];
  }
  return digits;
}

bool launcher_oversubscribes(const std::function<const char*(const char*)>& variable) {
  const auto says = [&](const char* name, std::string_view word) {
    const char* value = variable(name);
    return value != nullptr && std::string_view(value).find(word) != std::string_view::npos;
  };
  const char* open_mpi_4 = "OMPI_MCA_rmaps_base_oversubscribe";
  if (says(open_mpi_4, "1") || says(open_mpi_4, "true") || says(open_mpi_4, "yes")) return true;
  for (const char* policy : {"PRTE_MCA_rmaps_default_mapping_policy", "OMPI_MCA_rmaps_base_mapping_policy"}) {
    if (says(policy, "oversubscribe") && !says(policy, "nooversubscribe")) return true;
    if (says(policy, "OVERSUBSCRIBE") && !says(policy, "NOOVERSUBSCRIBE")) return true;
  }
  return says("SLURM_OVERCOMMIT", "1");
}

std::optional<std::string> expect_enough_cpus(const std::vector<RankFacts>& ranks, std::int64_t threads,
                                              bool oversubscribe) {
  if (oversubscribe) return std::nullopt;
  const auto nodes = nodes_of(ranks);
  for (const auto& [host, node] : nodes) {
    VITRAIL_EXPECT(node.ranks <= node.usable(), ExitCode::usage,
                   text(node.ranks, " ranks run on ", host, ", where they may use ", counted(node.usable(), "CPU")),
                   "ranks that take turns are slow, and all others wait for them",
                   text("Start at most ", node.usable(),
                        " per node, look at how ranks are bound to CPUs, or add "
                        "--oversubscribe if this is meant"));
  }
  for (const auto& [host, node] : nodes) {
    if (node.ranks * threads <= node.usable()) continue;
    return text(counted(node.ranks, "rank"), " of ", counted(threads, "thread"), node.ranks == 1 ? " runs" : " run",
                " on ", host, ", where they may use ", counted(node.usable(), "CPU"),
                ": see --threads, and how ranks are "
                "bound to CPUs");
  }
  return std::nullopt;
}

void expect_same_binary(const std::vector<RankFacts>& ranks) {
  constexpr std::size_t kShown = 12;
  const auto unlike = ranks_unlike_the_first(ranks.size(), [&](std::size_t rank) { return ranks[rank].binary; });
  if (unlike.empty()) return;
  const RankFacts& other = ranks[static_cast<std::size_t>(unlike.front())];
  fail(ExitCode::usage, {text("another program runs as ", rank_names_with_hosts(unlike, hosts_of(ranks)),
                              " than as rank 0 on ", ranks[0].host),
                         text("the files have the SHA-256 ", other.binary.substr(0, kShown), "... and ",
                              ranks[0].binary.substr(0, kShown), "...; other builds may give other bits"),
                         "Install one build where every node sees it, or copy it again"});
}

Json compared_settings(const Options& options, const std::string& data_fingerprint) {
  Json all = Json::object();
  for (const Setting& setting : options.settings()) {
    if (std::find(kMayDiffer.begin(), kMayDiffer.end(), setting.name) != kMayDiffer.end()) continue;
    Json values = Json::array();
    for (const std::string& value : setting.values) values.push_back(value);
    all.set(setting.name, std::move(values));
  }
  return all.set("data", Json::array().push_back("SHA-256 " + data_fingerprint));
}

void expect_same_settings(const std::vector<std::string>& settings, const std::vector<RankFacts>& ranks) {
  const auto unlike = ranks_unlike_the_first(settings.size(), [&](std::size_t rank) { return settings[rank]; });
  if (unlike.empty()) return;
  const auto parsed = [&](std::int64_t rank) {
    return Json::parse(settings[static_cast<std::size_t>(rank)], text("settings of rank ", rank), ExitCode::other);
  };
  fail(ExitCode::usage,
       {text("other settings hold for ", rank_names_with_hosts(unlike, hosts_of(ranks)), " than for rank 0 on ",
             ranks[0].host),
        text("ranks 0 and ", unlike.front(), " differ in ", differences(parsed(0), parsed(unlike.front()))),
        "Give all ranks the same options and the same configuration file"});
}

void check_launch(MpiSession& session, const Log& log, const Options& options, const LaunchSettings& settings) {
  give_threads_their_cpus(static_cast<int>(settings.threads));
  const auto world = session.world();
  const bool alone = world->size() == 1;
  const std::string mine = compared_settings(options, settings.data_fingerprint).dump();
  const RankFacts facts{host_name(), cpus_of_thread(), cpus_of_simulated_node(),
                        alone ? std::string() : sha256_of_file("/proc/self/exe", ExitCode::other), sha256_of(mine)};
  std::vector<RankFacts> ranks;
  for (const std::string& said : world->all_gather_strings(to_json(facts).dump())) {
    ranks.push_back(rank_facts(Json::parse(said, "a rank's facts", ExitCode::other)));
  }
  expect_same_binary(ranks);
  const auto differs = [&](const RankFacts& rank) { return rank.settings != ranks.front().settings; };
  if (std::any_of(ranks.begin(), ranks.end(), differs)) expect_same_settings(world->all_gather_strings(mine), ranks);
  // Any rank's word is enough: mpirun tells some of its ranks only.
  std::int64_t oversubscribe = settings.oversubscribe || launcher_oversubscribes(std::getenv) ? 1 : 0;
  world->all_max({&oversubscribe, 1});
  const auto warning = expect_enough_cpus(ranks, settings.threads, oversubscribe != 0);
  if (warning) log.warn(*warning);
}

}  // namespace vitrail
