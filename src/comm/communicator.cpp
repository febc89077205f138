#include "comm/communicator.hpp"

#include <algorithm>

namespace vitrail {

void Communicator::all_to_all(ConstTensor from, Tensor to) {
  start_all_to_all(from, to);
  finish_all_to_all();
}

std::vector<std::string> Communicator::all_gather_strings(const std::string& mine) {
  const auto ranks = static_cast<std::size_t>(size());
  const auto length = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> lengths(ranks);
  all_gather({&length, {1}, Dtype::i64}, {lengths.data(), {size()}, Dtype::i64});

  // Counts are equal in every verb, so all strings travel as long as the longest.
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::string padded = mine;
  padded.resize(static_cast<std::size_t>(longest));
  std::string all(ranks * padded.size(), '\0');
  all_gather({padded.data(), {longest}, Dtype::u8}, {all.data(), {size(), longest}, Dtype::u8});

  std::vector<std::string> strings;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    strings.push_back(all.substr(rank * padded.size(), static_cast<std::size_t>(lengths[rank])));
  }
  return strings;
}

}  // namespace vitrail
