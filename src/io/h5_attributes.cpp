// Attributes: the part of h5.hpp that is about small values beside groups and datasets.

#include <string>

#include "io/h5.hpp"
#include "io/h5_door.hpp"

namespace vitrail::h5 {

namespace {

Any string_type(std::size_t size, ExitCode code) {
  constexpr std::string_view problem = "cannot make an HDF5 string type";
  Any type(check(H5Tcopy(H5T_C_S1), code, problem));
  check(H5Tset_size(type.get(), size), code, problem);
  check(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), code, problem);
  check(H5Tset_cset(type.get(), H5T_CSET_UTF8), code, problem);
  return type;
}

Any open_attribute(hid_t file, const std::string& object, const std::string& name, ExitCode code,
                   const std::string& where) {
  const Any owner(check(H5Oopen(file, object.c_str(), H5P_DEFAULT), code, "cannot open the owner of " + where));
  const htri_t exists = check(H5Aexists(owner.get(), name.c_str()), code, "cannot look for " + where);
  VITRAIL_EXPECT(exists > 0, code, "there is no " + where, "it is needed", "Is this the right kind of file?");
  return Any(check(H5Aopen(owner.get(), name.c_str(), H5P_DEFAULT), code, "cannot open " + where));
}

std::int64_t elements_of(hid_t attribute, ExitCode code, const std::string& where) {
  const Any space(check(H5Aget_space(attribute), code, "cannot read " + where));
  return static_cast<std::int64_t>(check(H5Sget_simple_extent_npoints(space.get()), code, "cannot read " + where));
}

std::string read_variable_string(hid_t attribute, ExitCode code, const std::string& where) {
  const Any type(check(H5Aget_type(attribute), code, "cannot read " + where));
  char* value = nullptr;
  check(H5Aread(attribute, type.get(), &value), code, "cannot read " + where);
  std::string copied = value == nullptr ? "" : value;
  H5free_memory(value);
  return copied;
}

std::string read_fixed_string(hid_t attribute, hid_t type, ExitCode code, const std::string& where) {
  std::string value(H5Tget_size(type), '\0');
  check(H5Aread(attribute, type, value.data()), code, "cannot read " + where);
  const char padding = H5Tget_strpad(type) == H5T_STR_SPACEPAD ? ' ' : '\0';
  const std::size_t last = value.find_last_not_of(padding);
  value.resize(last == std::string::npos ? 0 : last + 1);
  return H5Tget_strpad(type) == H5T_STR_NULLTERM ? value.substr(0, value.find('\0')) : value;
}

std::string place(const std::string& object, const std::string& name, const std::string& path) {
  return text("attribute '", name, "' of '", object, "' in '", path, "'");
}

}  // namespace

bool File::has_attribute(const std::string& object, const std::string& name) const {
  const Door door;
  const Any owner(check(H5Oopen(handle_.get(), object.c_str(), H5P_DEFAULT), code_,
                        "cannot open " + name_of_object("object", object)));
  return check(H5Aexists(owner.get(), name.c_str()), code_, "cannot look for " + place(object, name, path_)) > 0;
}

std::string File::read_string(const std::string& object, const std::string& name) const {
  const Door door;
  const std::string where = place(object, name, path_);
  const Any attribute = open_attribute(handle_.get(), object, name, code_, where);
  const Any type(check(H5Aget_type(attribute.get()), code_, "cannot read " + where));
  VITRAIL_EXPECT(H5Tget_class(type.get()) == H5T_STRING && elements_of(attribute.get(), code_, where) == 1, code_,
                 where + " is not a string", "one string is expected", "");
  return H5Tis_variable_str(type.get()) > 0 ? read_variable_string(attribute.get(), code_, where)
                                            : read_fixed_string(attribute.get(), type.get(), code_, where);
}

std::int64_t File::attribute_elements(const std::string& object, const std::string& name) const {
  const Door door;
  const std::string where = place(object, name, path_);
  return elements_of(open_attribute(handle_.get(), object, name, code_, where).get(), code_, where);
}

void File::read_numbers(const std::string& object, const std::string& name, Dtype as, void* values) const {
  const Door door;
  const std::string where = place(object, name, path_);
  const Any attribute = open_attribute(handle_.get(), object, name, code_, where);
  const Any type(check(H5Aget_type(attribute.get()), code_, "cannot read " + where));
  const H5T_class_t kind = H5Tget_class(type.get());
  const bool fits = kind == H5T_INTEGER || (kind == H5T_FLOAT && as == Dtype::f64);
  VITRAIL_EXPECT(fits, code_, where + (as == Dtype::f64 ? " is not a number" : " is not a whole number"),
                 "its type in the file is another", "");
  check(H5Aread(attribute.get(), type_in_memory(as, code_).get(), values), code_, "cannot read " + where);
}

std::int64_t File::read_integer(const std::string& object, const std::string& name) const {
  const std::vector<std::int64_t> values = read_integers(object, name);
  VITRAIL_EXPECT(values.size() == 1, code_, text(place(object, name, path_), " holds ", values.size(), " numbers"),
                 "one is expected", "");
  return values.front();
}

std::vector<std::int64_t> File::read_integers(const std::string& object, const std::string& name) const {
  std::vector<std::int64_t> values(static_cast<std::size_t>(attribute_elements(object, name)));
  read_numbers(object, name, Dtype::i64, values.data());
  return values;
}

double File::read_real(const std::string& object, const std::string& name) const {
  const std::int64_t elements = attribute_elements(object, name);
  VITRAIL_EXPECT(elements == 1, code_, text(place(object, name, path_), " holds ", elements, " numbers"),
                 "one is expected", "");
  double value = 0;
  read_numbers(object, name, Dtype::f64, &value);
  return value;
}

void File::write_attribute(const std::string& object, const std::string& name, HandleId type, const void* value) {
  const std::string where = place(object, name, path_);
  const std::string problem = "cannot write " + where;
  const Any owner(check(H5Oopen(handle_.get(), object.c_str(), H5P_DEFAULT), code_, problem));
  if (check(H5Aexists(owner.get(), name.c_str()), code_, problem) > 0) {
    check(H5Adelete(owner.get(), name.c_str()), code_, problem);
  }
  const Any space(check(H5Screate(H5S_SCALAR), code_, problem));
  const Any attribute(
      check(H5Acreate2(owner.get(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT), code_, problem));
  check(H5Awrite(attribute.get(), type, value), code_, problem);
}

void File::write_string(const std::string& object, const std::string& name, std::string_view value) {
  const Door door;
  // HDF5 has no string of length 0: one NUL of padding reads back as "".
  const std::string padded = value.empty() ? std::string(1, '\0') : std::string(value);
  write_attribute(object, name, string_type(padded.size(), code_).get(), padded.data());
}

void File::write_integer(const std::string& object, const std::string& name, std::int64_t value) {
  const Door door;
  write_attribute(object, name, H5T_NATIVE_INT64, &value);
}

void File::write_real(const std::string& object, const std::string& name, double value) {
  const Door door;
  write_attribute(object, name, H5T_NATIVE_DOUBLE, &value);
}

}  // namespace vitrail::h5
