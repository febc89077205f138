// What the lanes of a warp do together: shuffles, votes, tensor-core products and matrix loads.

#include <bit>
#include <cstring>
#include <string>

#include "gpu_intrinsics.hpp"

namespace vitrail::emulated {
namespace {

void complete_shuffle(void* const (&arguments)[32], std::uint32_t mask) {
  std::uint64_t values[32] = {};
  for (int lane = 0; lane < 32; ++lane) {
    if (arguments[lane] != nullptr) values[lane] = static_cast<Shuffle*>(arguments[lane])->value;
  }
  for (std::uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    auto& mine = *static_cast<Shuffle*>(arguments[std::countr_zero(rest)]);
    if (mine.source < 0) continue;
    if ((mask >> mine.source & 1U) == 0) {
      fail_kernel("a shuffle reads lane " + std::to_string(mine.source) + ", which is not in the mask", mine.site);
    }
    mine.value = values[mine.source];
  }
}

void complete_vote(void* const (&arguments)[32], std::uint32_t mask) {
  std::uint32_t ballot = 0;
  for (std::uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    if (static_cast<Vote*>(arguments[lane])->predicate) ballot |= 1U << lane;
  }
  for (std::uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    static_cast<Vote*>(arguments[std::countr_zero(rest)])->ballot = ballot;
  }
}

void complete_sync(void* const (&)[32], std::uint32_t) {}

// --- tensor cores ----------------------------------------------------------------------------------------------------
struct Product {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

float low(std::uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000U); }

void complete_mma(void* const (&arguments)[32], std::uint32_t) {
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<const Product*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4 * 2;
    for (int part = 0; part < 4; ++part) {
      const int row = g + part % 2 * 8, column = t + part / 2 * 8;
      a[row][column] = low(mine.a[part]);
      a[row][column + 1] = high(mine.a[part]);
    }
    for (int part = 0; part < 2; ++part) {
      b[t + part * 8][g] = low(mine.b[part]);
      b[t + part * 8 + 1][g] = high(mine.b[part]);
    }
    for (int part = 0; part < 4; ++part) d[g + part / 2 * 8][t + part % 2] = mine.d[part];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      const float factor = a[row][k];
      for (int column = 0; column < 8; ++column) d[row][column] += factor * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4 * 2;
    float* mine = static_cast<const Product*>(arguments[lane])->d;
    for (int part = 0; part < 4; ++part) mine[part] = d[g + part / 2 * 8][t + part % 2];
  }
}

// --- matrix loads ----------------------------------------------------------------------------------------------------
struct MatrixLoad {
  std::uint32_t* r;
  const void* row;
  Site site;
};

template <int matrices, bool transposed>
void complete_load(void* const (&arguments)[32], std::uint32_t) {
  std::uint16_t element[matrices][8][8];
  for (int lane = 0; lane < matrices * 8; ++lane) {
    const auto& mine = *static_cast<const MatrixLoad*>(arguments[lane]);
    if (!is_shared_memory(mine.row, 16) || reinterpret_cast<std::uintptr_t>(mine.row) % 16 != 0) {
      fail_kernel("ldmatrix: the row of lane " + std::to_string(lane) +
                      " is not 16 bytes of shared memory, aligned to 16 bytes",
                  mine.site);
    }
    std::memcpy(element[lane / 8][lane % 8], mine.row, 16);
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<const MatrixLoad*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4 * 2;
    for (int m = 0; m < matrices; ++m) {
      const std::uint32_t first = transposed ? element[m][t][g] : element[m][g][t];
      const std::uint32_t second = transposed ? element[m][t + 1][g] : element[m][g][t + 1];
      mine.r[m] = first | second << 16;
    }
  }
}

constexpr std::uint32_t kFullMask = 0xFFFFFFFFU;
const Collective mma_collective{"mma_m16n8k16", &complete_mma};
const Collective load_x4{"ldmatrix_x4", &complete_load<4, false>};
const Collective load_x4_trans{"ldmatrix_x4_trans", &complete_load<4, true>};
const Collective load_x2{"ldmatrix_x2", &complete_load<2, false>};
const Collective load_x2_trans{"ldmatrix_x2_trans", &complete_load<2, true>};

void load(const Collective& collective, std::uint32_t* r, const void* row, Site site) {
  MatrixLoad mine{r, row, site};
  warp_collective(collective, kFullMask, &mine, site);
}

}  // namespace

const Collective shuffle_collective{"a shuffle", &complete_shuffle};
const Collective vote_collective{"a vote", &complete_vote};
const Collective sync_collective{"__syncwarp", &complete_sync};

int shuffle_source(ShuffleKind kind, int lane, int operand, int width, Site site) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) fail_kernel("a shuffle's width is no power of 2", site);
  const int first = lane & ~(width - 1), last = first + width - 1;
  switch (kind) {
    case ShuffleKind::index:
      return first + (operand & (width - 1));
    case ShuffleKind::up:
      return lane - operand >= first ? lane - operand : -1;
    case ShuffleKind::down:
      return lane + operand <= last ? lane + operand : -1;
    case ShuffleKind::exclusive_or:
      return (lane ^ operand) <= last ? (lane ^ operand) : -1;
  }
  return -1;
}

}  // namespace vitrail::emulated

namespace vitrail {

void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const char* file, int line) {
  emulated::Product mine{d, a, b};
  emulated::warp_collective(emulated::mma_collective, emulated::kFullMask, &mine, {file, line});
}
void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row, const char* file, int line) {
  emulated::load(emulated::load_x4, r, shared_row, {file, line});
}
void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared_row, const char* file, int line) {
  emulated::load(emulated::load_x4_trans, r, shared_row, {file, line});
}
void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared_row, const char* file, int line) {
  emulated::load(emulated::load_x2, r, shared_row, {file, line});
}
void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared_row, const char* file, int line) {
  emulated::load(emulated::load_x2_trans, r, shared_row, {file, line});
}

void cp_async_16(void* shared, const void* global, int valid_bytes, const char* file, int line) {
  if (valid_bytes < 0 || valid_bytes > 16)
    emulated::fail_kernel("cp_async_16: valid_bytes outside 0 to 16", {file, line});
  if (!emulated::is_shared_memory(shared, 16)) {
    emulated::fail_kernel("cp_async_16: the target is not shared memory", {file, line});
  }
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0) {
    emulated::fail_kernel("cp_async_16: an address is not aligned to 16 bytes", {file, line});
  }
  emulated::start_copy(shared, global, 16, static_cast<std::size_t>(valid_bytes));
}

}  // namespace vitrail
