#pragma once
// Functions that CUDA gives to device code, in the global namespace as there.

#include <bit>
#include <cstdint>
#include <cstring>

#include <math.h>

#include "lanes.hpp"

// --- barriers --------------------------------------------------------------------------------------------------------
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  (void)vitrail::emulated::block_barrier(false, {file, line});
}
inline int __syncthreads_count(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return vitrail::emulated::block_barrier(predicate != 0, {file, line});
}
inline int __syncthreads_or(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return vitrail::emulated::block_barrier(predicate != 0, {file, line}) > 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return vitrail::emulated::block_barrier(predicate == 0, {file, line}) == 0 ? 1 : 0;
}

namespace vitrail::emulated {

/// One lane's part of a shuffle: the lane that it reads, or -1 for its own value.
struct Shuffle {
  std::uint64_t value;
  int source;
  Site site;
};
extern const Collective shuffle_collective;

struct Vote {
  bool predicate;
  std::uint32_t ballot;
};
extern const Collective vote_collective;
extern const Collective sync_collective;

enum class ShuffleKind { index, up, down, exclusive_or };
/// The lane of the warp that `lane` reads, -1 for itself.
int shuffle_source(ShuffleKind kind, int lane, int operand, int width, Site site);
int lane_of_warp();

template <class T>
T shuffle(ShuffleKind kind, unsigned int mask, T value, int operand, int width, Site site) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  Shuffle mine{0, shuffle_source(kind, lane_of_warp(), operand, width, site), site};
  std::memcpy(&mine.value, &value, sizeof(T));
  warp_collective(shuffle_collective, mask, &mine, site);
  std::memcpy(&value, &mine.value, sizeof(T));
  return value;
}

inline std::uint32_t vote(unsigned int mask, bool predicate, Site site) {
  Vote mine{predicate, 0};
  warp_collective(vote_collective, mask, &mine, site);
  return mine.ballot;
}

}  // namespace vitrail::emulated

// --- warp collectives ------------------------------------------------------------------------------------------------
inline void __syncwarp(unsigned int mask = 0xffffffffU, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  char none = 0;
  vitrail::emulated::warp_collective(vitrail::emulated::sync_collective, mask, &none, {file, line});
}
template <class T>
T __shfl_sync(unsigned int mask, T value, int source, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  using namespace vitrail::emulated;
  return shuffle(ShuffleKind::index, mask, value, source, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned int mask, T value, unsigned int delta, int width = 32, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) {
  using namespace vitrail::emulated;
  return shuffle(ShuffleKind::up, mask, value, static_cast<int>(delta), width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned int mask, T value, unsigned int delta, int width = 32, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  using namespace vitrail::emulated;
  return shuffle(ShuffleKind::down, mask, value, static_cast<int>(delta), width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned int mask, T value, int lane_mask, int width = 32, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  using namespace vitrail::emulated;
  return shuffle(ShuffleKind::exclusive_or, mask, value, lane_mask, width, {file, line});
}
inline unsigned int __ballot_sync(unsigned int mask, int predicate, const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
  return vitrail::emulated::vote(mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned int mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return vitrail::emulated::vote(mask, predicate != 0, {file, line}) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned int mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return vitrail::emulated::vote(mask, predicate == 0, {file, line}) == 0 ? 1 : 0;
}

// --- bits ------------------------------------------------------------------------------------------------------------
constexpr int __popc(unsigned int x) { return std::popcount(x); }
constexpr int __popcll(unsigned long long x) { return std::popcount(x); }
constexpr int __clz(int x) { return std::countl_zero(static_cast<unsigned int>(x)); }
constexpr int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
constexpr int __ffs(int x) { return x == 0 ? 0 : 1 + std::countr_zero(static_cast<unsigned int>(x)); }
constexpr int __ffsll(long long x) { return x == 0 ? 0 : 1 + std::countr_zero(static_cast<unsigned long long>(x)); }
constexpr unsigned int __brev(unsigned int x) {
  unsigned int reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= ((x >> bit) & 1U) << (31 - bit);
  return reversed;
}
constexpr unsigned int __umulhi(unsigned int x, unsigned int y) {
  return static_cast<unsigned int>((static_cast<unsigned long long>(x) * y) >> 32);
}
constexpr unsigned int __float_as_uint(float x) { return std::bit_cast<unsigned int>(x); }
constexpr int __float_as_int(float x) { return std::bit_cast<int>(x); }
constexpr float __uint_as_float(unsigned int x) { return std::bit_cast<float>(x); }
constexpr float __int_as_float(int x) { return std::bit_cast<float>(x); }

// --- memory ----------------------------------------------------------------------------------------------------------
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}

// --- arithmetic; expf, fmaf, tanhf, erff ... are those of <math.h> ---------------------------------------------------
inline float rsqrtf(float x) { return 1.0F / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0F / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __saturatef(float x) { return x > 0.0F ? (x < 1.0F ? x : 1.0F) : 0.0F; }

constexpr int min(int a, int b) { return a < b ? a : b; }
constexpr int max(int a, int b) { return a > b ? a : b; }
constexpr unsigned int min(unsigned int a, unsigned int b) { return a < b ? a : b; }
constexpr unsigned int max(unsigned int a, unsigned int b) { return a > b ? a : b; }
constexpr long min(long a, long b) { return a < b ? a : b; }
constexpr long max(long a, long b) { return a > b ? a : b; }
constexpr unsigned long min(unsigned long a, unsigned long b) { return a < b ? a : b; }
constexpr unsigned long max(unsigned long a, unsigned long b) { return a > b ? a : b; }
constexpr long long min(long long a, long long b) { return a < b ? a : b; }
constexpr long long max(long long a, long long b) { return a > b ? a : b; }
constexpr unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
constexpr unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
