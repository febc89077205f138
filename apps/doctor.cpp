#include "apps/doctor.hpp"

#include <algorithm>
#include <array>
#include <ostream>
#include <set>
#include <utility>

namespace vitrail {

namespace {

constexpr std::array kHealths = {Health::ok, Health::warn, Health::bad};
constexpr std::size_t kMostNames = 8;
constexpr std::size_t kCheckWidth = 12;

bool alike(const Finding& a, const Finding& b) {
  if (a.check != b.check || a.health != b.health || a.advice != b.advice) return false;
  return a.health != Health::bad || a.said == b.said;
}

std::string padded(const std::string& word, std::size_t width) {
  return word + std::string(word.size() < width ? width - word.size() : 0, ' ');
}

template <class Names>
std::string first_names(const Names& names) {
  std::string said;
  std::size_t count = 0;
  for (const auto& name : names) {
    if (count++ == kMostNames) return said + text(" and ", names.size() - kMostNames, " more");
    said += text(said.empty() ? "" : " ", name);
  }
  return said;
}

}  // namespace

const char* name_of(Health health) {
  switch (health) {
    case Health::ok:
      return "ok";
    case Health::warn:
      return "warn";
    case Health::bad:
      return "bad";
  }
  return "";
}

Finding ok(std::string check, std::string said) { return {Health::ok, std::move(check), std::move(said), {}, false}; }
Finding warn(std::string check, std::string said, std::string advice) {
  return {Health::warn, std::move(check), std::move(said), std::move(advice), false};
}
Finding bad(std::string check, std::string said, std::string advice) {
  return {Health::bad, std::move(check), std::move(said), std::move(advice), false};
}
Finding of_job(Finding finding) {
  finding.of_job = true;
  return finding;
}

Json to_json(const Findings& findings) {
  Json json = Json::array();
  for (const Finding& one : findings) {
    json.push_back(Json::object()
                       .set("health", name_of(one.health))
                       .set("check", one.check)
                       .set("said", one.said)
                       .set("advice", one.advice)
                       .set("of_job", one.of_job));
  }
  return json;
}

Findings findings_from_json(const Json& json) {
  Findings findings;
  for (const Json& one : json.items()) {
    const std::string& name = one.at("health").as_string();
    const auto* const health =
        std::find_if(kHealths.begin(), kHealths.end(), [&](Health some) { return name == name_of(some); });
    VITRAIL_EXPECT(health != kHealths.end(), ExitCode::other, text("the health '", name, "'"), "there is none such",
                   "");
    findings.push_back({*health, one.at("check").as_string(), one.at("said").as_string(), one.at("advice").as_string(),
                        one.at("of_job").as_bool()});
  }
  return findings;
}

std::vector<SharedFinding> shared(const std::vector<Findings>& of_ranks) {
  std::vector<SharedFinding> all;
  std::vector<std::string> checks;  // in their order
  for (std::size_t rank = 0; rank < of_ranks.size(); ++rank) {
    for (const Finding& one : of_ranks[rank]) {
      if (std::find(checks.begin(), checks.end(), one.check) == checks.end()) checks.push_back(one.check);
      // What one rank says twice in other words are two findings.
      const auto same = std::find_if(all.begin(), all.end(), [&](const SharedFinding& other) {
        return alike(other.finding, one) &&
               (other.ranks.back() != static_cast<int>(rank) || other.finding.said == one.said);
      });
      if (same == all.end()) {
        all.push_back({one, {static_cast<int>(rank)}});
      } else if (same->ranks.back() != static_cast<int>(rank)) {
        same->ranks.push_back(static_cast<int>(rank));
      }
    }
  }
  const auto place = [&](const SharedFinding& one) {
    return std::find(checks.begin(), checks.end(), one.finding.check) - checks.begin();
  };
  std::stable_sort(all.begin(), all.end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
  return all;
}

std::string who_text(const std::vector<int>& ranks, const std::vector<std::string>& hosts) {
  if (ranks.size() == hosts.size()) return "";
  std::set<std::string> names;
  for (const int rank : ranks) names.insert(hosts.at(static_cast<std::size_t>(rank)));
  // What one rank says for its node stands for the node.
  std::set<std::string> spoken_for;
  for (const int rank : ranks) {
    const std::string& host = hosts.at(static_cast<std::size_t>(rank));
    const auto first = std::find(hosts.begin(), hosts.end(), host) - hosts.begin();
    if (first == rank) spoken_for.insert(host);
  }
  const std::set<std::string> all(hosts.begin(), hosts.end());
  const bool for_nodes = spoken_for == names && ranks.size() == names.size();
  if (for_nodes && names == all) return "";
  return for_nodes ? first_names(names) : text(ranks.size() == 1 ? "rank " : "ranks ", first_names(ranks));
}

void print_findings(std::ostream& out, const std::vector<SharedFinding>& all, const std::vector<std::string>& hosts) {
  std::array<std::size_t, kHealths.size()> counts{};
  for (const SharedFinding& one : all) {
    const Finding& finding = one.finding;
    ++counts.at(static_cast<std::size_t>(finding.health));
    const std::string who = finding.of_job ? "" : who_text(one.ranks, hosts);
    out << padded(name_of(finding.health), 6) << padded(finding.check, kCheckWidth) << (who.empty() ? "" : who + ": ")
        << finding.said << (finding.advice.empty() ? "" : ". " + finding.advice) << '\n';
  }
  out << counts[0] << " ok, " << counts[1] << " to look at, " << counts[2] << " bad\n";
}

}  // namespace vitrail
