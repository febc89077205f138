// bf16 in pairs, as the instructions that multiply it take it: 32 bits hold the element of an even term and, above it,
// that of the odd one after it. Included once per instruction set, see vector_math-inl.hpp.

#if defined(VITRAIL_OPS_CPU_BF16_PAIRS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRAIL_OPS_CPU_BF16_PAIRS_INL
#undef VITRAIL_OPS_CPU_BF16_PAIRS_INL
#else
#define VITRAIL_OPS_CPU_BF16_PAIRS_INL
#endif

#include "ops/cpu/bf16_blocks.hpp"
#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

/// to[i] = the pair of even[i] and odd[i], rounded if f32; no odd row counts as zeros. Whole vectors are written.
HWY_INLINE void pair_rows(const float* even, const float* odd, std::int64_t n, std::uint32_t* to) {
  round_pairs(even, odd, n, to);
}
HWY_INLINE void pair_rows(const Bf16* even, const Bf16* odd, std::int64_t n, std::uint32_t* to) {
  const hn::RebindToUnsigned<Floats> d;
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    const auto low = hn::ShiftRight<16>(hn::BitCast(d, load(even + i, count)));  // bf16 is the upper half of an f32
    const auto pairs = odd != nullptr ? hn::Or(low, hn::BitCast(d, load(odd + i, count))) : low;
    hn::StoreU(pairs, d, to + i);
  });
}

#undef VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
#define VITRAIL_OPS_CPU_MULTIPLIES_PAIRS (HWY_TARGET == HWY_AVX3 && HWY_ARCH_X86)
#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
// AVX512_BF16 is no part of this target, and functions that are compiled for it could not be inlined: so its
// instructions are written down here. Only for machines with has_bf16_instructions().

/// sum + a b, of the pairs in a and b.
HWY_INLINE Vector add_products_of_pairs(Vector a, Vector b, Vector sum) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
  return sum;
}
/// Two vectors as bf16, to nearest with ties to even: the elements of `low`, then those of `high`.
HWY_INLINE __m512i round_both(Vector low, Vector high) {
  __m512i halves;
  __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(halves) : "v"(high.raw), "v"(low.raw));
  return halves;
}
/// One vector as bf16.
HWY_INLINE __m256i round_one(Vector x) {
  __m256i halves;
  __asm__("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(x.raw));
  return halves;
}
/// The pairs of elements that stand sixteen apart, as those that round_both has put together.
HWY_INLINE __m512i paired(__m512i halves) {
  const __m512i in_turn = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(in_turn, halves);
}
/// Of elements of four heads side by side, the pairs of those that follow each other in a head.
HWY_INLINE __m512i paired_by_fours(__m512i halves) {
  const __m512i in_turn = _mm512_set_epi16(31, 27, 30, 26, 29, 25, 28, 24, 23, 19, 22, 18, 21, 17, 20, 16, 15, 11, 14,
                                           10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1, 4, 0);
  return _mm512_permutexvar_epi16(in_turn, halves);
}
#endif

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
