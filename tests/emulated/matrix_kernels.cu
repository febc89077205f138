#include "gpu_intrinsics.hpp"
#include "tests/emulated/kernels.hpp"

namespace vitrail::emulated {
namespace {

__device__ std::uint32_t pair(__nv_bfloat16 low, __nv_bfloat16 high) {
  return __bfloat16_as_ushort(low) | static_cast<std::uint32_t>(__bfloat16_as_ushort(high)) << 16;
}

__device__ void load_result(float (&mine)[4], const float* d, int g, int t) {
  mine[0] = d[g * 8 + t];
  mine[1] = d[g * 8 + t + 1];
  mine[2] = d[(g + 8) * 8 + t];
  mine[3] = d[(g + 8) * 8 + t + 1];
}
__device__ void store_result(const float (&mine)[4], float* d, int g, int t) {
  d[g * 8 + t] = mine[0];
  d[g * 8 + t + 1] = mine[1];
  d[(g + 8) * 8 + t] = mine[2];
  d[(g + 8) * 8 + t + 1] = mine[3];
}

}  // namespace

__global__ void multiply(float* d, const __nv_bfloat16* a, const __nv_bfloat16* b) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4 * 2;
  const auto of_a = [&](int row, int column) { return pair(a[row * 16 + column], a[row * 16 + column + 1]); };
  const auto of_b = [&](int row) { return pair(b[row * 8 + g], b[(row + 1) * 8 + g]); };
  const std::uint32_t mine_a[4] = {of_a(g, t), of_a(g + 8, t), of_a(g, t + 8), of_a(g + 8, t + 8)};
  const std::uint32_t mine_b[2] = {of_b(t), of_b(t + 8)};
  float mine[4];
  load_result(mine, d, g, t);
  mma_m16n8k16(mine, mine_a, mine_b);
  store_result(mine, d, g, t);
}

__global__ void multiply_loaded(float* d, const __nv_bfloat16* a, const __nv_bfloat16* b) {
  auto& shared = shared_memory<Fragments>();
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4 * 2;
  for (int i = lane; i < 256; i += 32) shared.a[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) shared.b[i / 8][i % 8] = b[i];
  __syncwarp();
  std::uint32_t mine_a[4], mine_b[2];
  // Matrices 0 to 3 of a: upper left, lower left, upper right, lower right.
  ldmatrix_x4(mine_a, &shared.a[lane % 16][lane / 16 * 8]);
  ldmatrix_x2_trans(mine_b, &shared.b[lane % 16][0]);
  float mine[4];
  load_result(mine, d, g, t);
  mma_m16n8k16(mine, mine_a, mine_b);
  store_result(mine, d, g, t);
}

__global__ void load_matrices(std::uint32_t* out) {
  auto& shared = shared_memory<FourMatrices>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) shared.element[i / 64][i / 8 % 8][i % 8] = static_cast<std::uint16_t>(i);
  __syncwarp();
  std::uint32_t four[4], two[2];
  const auto keep = [&](int form, const std::uint32_t* registers, int count) {
    for (int i = 0; i < count; ++i) out[(form * 4 + i) * 32 + lane] = registers[i];
  };
  const void* row = shared.element[lane / 8][lane % 8];
  ldmatrix_x4(four, row);
  keep(0, four, 4);
  ldmatrix_x4_trans(four, row);
  keep(1, four, 4);
  const void* row_of_two = lane < 16 ? row : nullptr;  // the addresses of the upper lanes do not count
  ldmatrix_x2(two, row_of_two);
  keep(2, two, 2);
  ldmatrix_x2_trans(two, row_of_two);
  keep(3, two, 2);
}

__global__ void load_unaligned(std::uint32_t* out) {
  auto& shared = shared_memory<FourMatrices>();
  std::uint32_t two[2];
  ldmatrix_x2(two, &shared.element[0][threadIdx.x % 8][4]);
  out[threadIdx.x] = two[0];
}

__global__ void copy_in_groups(const float* in, float* out) {
  auto& stage = shared_memory<Stage>();
  const int lane = static_cast<int>(threadIdx.x);
  const auto keep = [&](int moment) {
    for (int part = 0; part < 3; ++part) {
      for (int i = 0; i < 4; ++i) out[((moment * 3 + part) * 32 + lane) * 4 + i] = stage.value[part][lane][i];
    }
  };
  for (int part = 0; part < 3; ++part) {
    cp_async_16(stage.value[part][lane], in + (part * 32 + lane) * 4, part == 2 ? 4 : 16);
    if (part != 1) cp_async_commit();  // one group of stage 0, one of stages 1 and 2
  }
  keep(0);
  cp_async_wait<1>();
  keep(1);
  cp_async_wait<0>();
  keep(2);
}

__global__ void copy_to_nowhere(const float* in, float* out) { cp_async_16(out, in, 16); }

}  // namespace vitrail::emulated
