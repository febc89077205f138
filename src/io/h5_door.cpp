#include "io/h5_door.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

namespace vitrail::h5 {

namespace {

// Not state of ours but the lock that a library built without thread safety lacks; unused otherwise.
std::recursive_mutex& lock_of_the_library() {
  static std::recursive_mutex lock;
  return lock;
}

bool is_thread_safe() {
  hbool_t safe = 0;
  return H5is_library_threadsafe(&safe) >= 0 && safe;
}

herr_t keep_first(unsigned position, const H5E_error2_t* error, void* said) {
  if (position == 0 && error->desc != nullptr) *static_cast<std::string*>(said) = error->desc;
  return 0;
}

// bfloat16: the upper half of an IEEE f32.
Any bfloat16(hid_t like, ExitCode code) {
  constexpr std::string_view problem = "cannot describe bf16 to HDF5";
  Any type(check(H5Tcopy(like), code, problem));
  check(H5Tset_fields(type.get(), 15, 7, 8, 0, 7), code, problem);
  check(H5Tset_offset(type.get(), 0), code, problem);
  check(H5Tset_precision(type.get(), 16), code, problem);
  check(H5Tset_size(type.get(), 2), code, problem);
  check(H5Tset_ebias(type.get(), 127), code, problem);
  return type;
}

bool is_bfloat16(hid_t type) {
  std::size_t sign = 0;
  std::size_t exponent = 0;
  std::size_t exponent_bits = 0;
  std::size_t mantissa = 0;
  std::size_t mantissa_bits = 0;
  return H5Tget_fields(type, &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits) >= 0 && exponent_bits == 8 &&
         mantissa_bits == 7;
}

// HDF5 calls an infinity in f64 out of the range of f32; it is not: unhandled, it becomes an infinity.
bool is_infinity(hid_t type, const void* value) {
  if (H5Tequal(type, H5T_NATIVE_DOUBLE) <= 0) return false;
  double real = 0;
  std::memcpy(&real, value, sizeof real);
  return std::isinf(real);
}

H5T_conv_ret_t refuse_lost_values(H5T_conv_except_t what, hid_t from, hid_t, void* value, void*, void*) {
  const bool out_of_range = what == H5T_CONV_EXCEPT_RANGE_HI || what == H5T_CONV_EXCEPT_RANGE_LOW;
  return out_of_range && !is_infinity(from, value) ? H5T_CONV_ABORT : H5T_CONV_UNHANDLED;
}

bool is_fraction(Dtype dtype) { return dtype == Dtype::f32 || dtype == Dtype::f64 || dtype == Dtype::bf16; }

[[noreturn]] void no_complex(ExitCode code) {
  fail(code, {"complex numbers cannot be stored in HDF5 files", "files hold f32, f64, bf16, i32, i64 and u8", ""});
}

}  // namespace

Door::Door() {
  // HDF5 would close at exit what it believes still open; after a close that failed (a full disk) it then crashes on
  // what it has already freed. We close our files ourselves. Only the first call of the process counts.
  H5dont_atexit();
  // Asked at every door: cheaper than remembering it would be worth.
  if (!is_thread_safe()) lock_ = std::unique_lock(lock_of_the_library());
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string reason() {
  std::string said;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &said);
  H5Eclear2(H5E_DEFAULT);
  // Of a failed system call it tells the time, the descriptor, addresses, over two lines; its error is the reason.
  constexpr std::string_view head = "error message = '";
  if (const std::size_t error = said.find(head); error != std::string::npos) {
    const std::size_t begin = error + head.size();
    said = said.substr(begin, said.find('\'', begin) - begin);
  }
  std::replace(said.begin(), said.end(), '\n', ' ');
  return said.empty() ? "HDF5 gives no reason" : "HDF5: " + said;
}

void AnyTraits::close(Handle handle) noexcept {
  const Door door;
  H5Idec_ref(handle);
}

Any type_in_memory(Dtype dtype, ExitCode code) {
  constexpr std::string_view problem = "cannot make an HDF5 type";
  switch (dtype) {
    case Dtype::f32:
      return Any(check(H5Tcopy(H5T_NATIVE_FLOAT), code, problem));
    case Dtype::f64:
      return Any(check(H5Tcopy(H5T_NATIVE_DOUBLE), code, problem));
    case Dtype::i32:
      return Any(check(H5Tcopy(H5T_NATIVE_INT32), code, problem));
    case Dtype::i64:
      return Any(check(H5Tcopy(H5T_NATIVE_INT64), code, problem));
    case Dtype::u8:
      return Any(check(H5Tcopy(H5T_NATIVE_UINT8), code, problem));
    case Dtype::bf16:
      return bfloat16(H5T_NATIVE_FLOAT, code);
    case Dtype::c128:
      break;
  }
  no_complex(code);
}

Any type_in_file(Dtype dtype, ExitCode code) {
  constexpr std::string_view problem = "cannot make an HDF5 type";
  switch (dtype) {
    case Dtype::f32:
      return Any(check(H5Tcopy(H5T_IEEE_F32LE), code, problem));
    case Dtype::f64:
      return Any(check(H5Tcopy(H5T_IEEE_F64LE), code, problem));
    case Dtype::i32:
      return Any(check(H5Tcopy(H5T_STD_I32LE), code, problem));
    case Dtype::i64:
      return Any(check(H5Tcopy(H5T_STD_I64LE), code, problem));
    case Dtype::u8:
      return Any(check(H5Tcopy(H5T_STD_U8LE), code, problem));
    case Dtype::bf16:
      return bfloat16(H5T_IEEE_F32LE, code);
    case Dtype::c128:
      break;
  }
  no_complex(code);
}

Dtype dtype_of_type(hid_t type, ExitCode code, const std::string& where) {
  const H5T_class_t kind = H5Tget_class(type);
  const std::size_t size = H5Tget_size(type);
  if (kind == H5T_FLOAT && size == 8) return Dtype::f64;
  if (kind == H5T_FLOAT && size == 4) return Dtype::f32;
  if (kind == H5T_FLOAT && size == 2 && is_bfloat16(type)) return Dtype::bf16;
  const bool has_sign = kind == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_2;
  if (kind == H5T_INTEGER && has_sign && size == 8) return Dtype::i64;
  if (kind == H5T_INTEGER && has_sign && size == 4) return Dtype::i32;
  if (kind == H5T_INTEGER && !has_sign && size == 1) return Dtype::u8;
  fail(code, {where + " has an element type that we do not read", "files hold f32, f64, bf16, i32, i64 and u8", ""});
}

Any strict_transfer(ExitCode code) {
  constexpr std::string_view problem = "cannot make HDF5 transfer properties";
  Any properties(check(H5Pcreate(H5P_DATASET_XFER), code, problem));
  check(H5Pset_type_conv_cb(properties.get(), refuse_lost_values, nullptr), code, problem);
  return properties;
}

void expect_convertible(Dtype from, Dtype to, ExitCode code, const std::string& where) {
  VITRAIL_EXPECT(!is_fraction(from) || is_fraction(to), code,
                 text(where, ": ", name_of(from), " values are asked for as ", name_of(to)),
                 "fractions would be cut off", "Is this the right dataset?");
}

}  // namespace vitrail::h5
