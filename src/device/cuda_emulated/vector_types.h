#pragma once
// The toolkit's vector types, as far as our kernels use them, with its sizes and alignments.

struct uint3 {
  unsigned int x, y, z;
};

struct dim3 {
  unsigned int x = 1, y = 1, z = 1;
  constexpr dim3() = default;
  constexpr dim3(unsigned int x_, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_) {}  // NOLINT
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}                                                 // NOLINT
};

#define VITRAIL_EMULATED_VECTOR2(name, element) \
  struct alignas(2 * sizeof(element)) name {    \
    element x, y;                               \
  };                                            \
  constexpr name make_##name(element x, element y) { return {x, y}; }
#define VITRAIL_EMULATED_VECTOR4(name, element, alignment) \
  struct alignas(alignment) name {                         \
    element x, y, z, w;                                    \
  };                                                       \
  constexpr name make_##name(element x, element y, element z, element w) { return {x, y, z, w}; }

VITRAIL_EMULATED_VECTOR2(float2, float)
VITRAIL_EMULATED_VECTOR2(double2, double)
VITRAIL_EMULATED_VECTOR2(int2, int)
VITRAIL_EMULATED_VECTOR2(uint2, unsigned int)
VITRAIL_EMULATED_VECTOR2(short2, short)
VITRAIL_EMULATED_VECTOR2(ushort2, unsigned short)
VITRAIL_EMULATED_VECTOR2(longlong2, long long)
VITRAIL_EMULATED_VECTOR2(ulonglong2, unsigned long long)
VITRAIL_EMULATED_VECTOR4(float4, float, 16)
VITRAIL_EMULATED_VECTOR4(int4, int, 16)
VITRAIL_EMULATED_VECTOR4(uint4, unsigned int, 16)
VITRAIL_EMULATED_VECTOR4(short4, short, 8)
VITRAIL_EMULATED_VECTOR4(ushort4, unsigned short, 8)
VITRAIL_EMULATED_VECTOR4(char4, signed char, 4)
VITRAIL_EMULATED_VECTOR4(uchar4, unsigned char, 4)

#undef VITRAIL_EMULATED_VECTOR2
#undef VITRAIL_EMULATED_VECTOR4

struct float3 {
  float x, y, z;
};
struct int3 {
  int x, y, z;
};
constexpr float3 make_float3(float x, float y, float z) { return {x, y, z}; }
constexpr int3 make_int3(int x, int y, int z) { return {x, y, z}; }
constexpr uint3 make_uint3(unsigned int x, unsigned int y, unsigned int z) { return {x, y, z}; }
