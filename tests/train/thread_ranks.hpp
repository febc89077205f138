#pragma once
// Ranks that are threads of one process, so that a test can kill all of them at one instant.

#include <algorithm>
#include <barrier>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "comm/communicator.hpp"

namespace vitrail::testing {

/// Calls work(communicator) on so many ranks; rank 0 is the calling thread. The communicators cannot be split.
class ThreadRanks {
 public:
  explicit ThreadRanks(int ranks) : shown_(static_cast<std::size_t>(ranks)), barrier_(ranks) {}

  template <class Work>
  void run(Work work) {
    const int ranks = static_cast<int>(shown_.size());
    std::vector<std::thread> others;
    for (int rank = 1; rank < ranks; ++rank) {
      others.emplace_back([this, rank, &work] {
        Member member(*this, rank);
        work(member);
      });
    }
    Member member(*this, 0);
    work(member);
    for (std::thread& other : others) other.join();
  }

 private:
  class Member final : public Communicator {
   public:
    Member(ThreadRanks& all, int rank) : all_(all), rank_(rank) {}
    [[nodiscard]] int rank() const noexcept override { return rank_; }
    [[nodiscard]] int size() const noexcept override { return static_cast<int>(all_.shown_.size()); }
    void barrier() override { all_.barrier_.arrive_and_wait(); }
    void broadcast(Tensor data, int root) override {
      exchange(data.data, [&](const std::vector<const void*>& shown) {
        const void* from = shown[static_cast<std::size_t>(root)];
        if (from != data.data) std::memcpy(data.data, from, static_cast<std::size_t>(data.bytes()));
      });
    }
    void all_gather(ConstTensor from, Tensor to) override {
      const auto bytes = static_cast<std::size_t>(from.bytes());
      exchange(from.data, [&](const std::vector<const void*>& shown) {
        auto* place = static_cast<std::byte*>(to.data);
        for (const void* part : shown) {
          if (bytes > 0 && part != place) std::memcpy(place, part, bytes);
          place += bytes;
        }
      });
    }
    void start_all_to_all(ConstTensor from, Tensor to) override {
      const std::size_t part = static_cast<std::size_t>(from.bytes()) / all_.shown_.size();
      exchange(from.data, [&](const std::vector<const void*>& shown) {
        auto* place = static_cast<std::byte*>(to.data);
        for (const void* other : shown) {
          std::memcpy(place, static_cast<const std::byte*>(other) + part * static_cast<std::size_t>(rank_), part);
          place += part;
        }
      });
    }
    void finish_all_to_all() override {}
    void all_min(std::span<std::int64_t> values) override {
      reduce(values, [](std::int64_t a, std::int64_t b) { return std::min(a, b); });
    }
    void all_max(std::span<std::int64_t> values) override {
      reduce(values, [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
    }
    void all_sum(std::span<std::int64_t> values) override { reduce(values, std::plus<>()); }
    std::unique_ptr<Communicator> split(int) override { return nullptr; }

   private:
    /// Every rank shows a pointer, and looks at those of all while none goes on.
    template <class Look>
    void exchange(const void* mine, Look look) {
      all_.shown_[static_cast<std::size_t>(rank_)] = mine;
      barrier();
      look(all_.shown_);
      barrier();
    }
    template <class Join>
    void reduce(std::span<std::int64_t> values, Join join) {
      const std::vector<std::int64_t> mine(values.begin(), values.end());
      exchange(mine.data(), [&](const std::vector<const void*>& shown) {
        for (std::size_t i = 0; i < values.size(); ++i) {
          values[i] = static_cast<const std::int64_t*>(shown[0])[i];
          for (std::size_t r = 1; r < shown.size(); ++r) {
            values[i] = join(values[i], static_cast<const std::int64_t*>(shown[r])[i]);
          }
        }
      });
    }

    ThreadRanks& all_;
    int rank_;
  };

  std::vector<const void*> shown_;
  std::barrier<> barrier_;
};

}  // namespace vitrail::testing
