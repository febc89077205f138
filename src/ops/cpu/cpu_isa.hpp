#pragma once
// The instruction set of the cpu back end. Results are equal bit for bit only on machines that use the same one, so
// ranks agree on the lowest of all of them and pin it.

#include <string_view>

namespace vitrail {

/// The best that this machine, oneDNN and our own kernels can use: 0 plain, 1 SSE4, 2 AVX2, 3 AVX-512, 4 AVX-512 that
/// multiplies bf16 (Zen 4, Sapphire Rapids), 5 that and AMX, which multiplies tiles of bf16. Levels are never
/// renumbered.
int cpu_isa_level();

/// Whether the level has instructions for pairs, or for tiles, of bf16.
bool has_bf16_instructions();
bool has_tile_instructions();

/// "plain", "sse4", "avx2", "avx512", "avx512_bf16", "amx_bf16".
std::string_view cpu_isa_name(int level);

/// From here on nothing above `level` is used, by oneDNN and by our own kernels. Call it once, before make_cpu_ops:
/// Error (usage) when oneDNN was used already with another level, or when this machine has not got it.
void pin_cpu_isa(int level);

}  // namespace vitrail
