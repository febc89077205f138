#include "io/h5.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include "io/h5_door.hpp"

namespace vitrail::h5 {

static_assert(sizeof(hid_t) == sizeof(HandleId), "HDF5 1.10 or newer");

namespace {

constexpr std::int64_t kFilteredChunkBytes = std::int64_t{1} << 20;
// Two chunks of a cache with equal numbers modulo this push each other out; a prime, as HDF5 advises.
constexpr std::size_t kCacheSlots = 12421;

std::vector<hsize_t> sizes(const Shape& shape) { return {shape.begin(), shape.end()}; }

std::int64_t product(const Shape& shape) {
  std::int64_t result = 1;
  for (const std::int64_t extent : shape) result *= extent;
  return result;
}

std::string text_of(const Shape& shape) {
  std::string said = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) said += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return said + "]";
}

Any open_object(hid_t file, const std::string& object, ExitCode code, const std::string& where) {
  return Any(check(H5Oopen(file, object.empty() ? "/" : object.c_str(), H5P_DEFAULT), code, "cannot open " + where));
}

Any file_access(bool for_reading, ExitCode code) {
  constexpr std::string_view problem = "cannot make HDF5 file properties";
  Any properties(check(H5Pcreate(H5P_FILE_ACCESS), code, problem));
  // Closing the file closes what is still open in it, so that close() always means closed.
  check(H5Pset_fclose_degree(properties.get(), H5F_CLOSE_STRONG), code, problem);
#if H5_VERSION_GE(1, 10, 7)
  // Many ranks read one shard, often on file systems without locks; who writes to a file has it alone.
  check(H5Pset_file_locking(properties.get(), false, true), code, problem);
#endif
  // 1.8's format for new objects: attributes may exceed 64 KiB; h5py, h5dump and HDF5 1.10 read it.
  if (!for_reading) {
    check(H5Pset_libver_bounds(properties.get(), H5F_LIBVER_V18, H5F_LIBVER_LATEST), code, problem);
  }
  return properties;
}

// About 1 MiB of whole rows.
Shape rows_of_about_1_mib(const Shape& shape, Dtype dtype) {
  Shape chunk = shape;
  const std::int64_t row_bytes =
      std::max<std::int64_t>(1, product(shape) / std::max<std::int64_t>(1, shape[0])) * size_of(dtype);
  chunk[0] = std::clamp<std::int64_t>(kFilteredChunkBytes / row_bytes, 1, std::max<std::int64_t>(1, shape[0]));
  for (std::int64_t& extent : chunk) extent = std::max<std::int64_t>(1, extent);
  return chunk;
}

Any creation_properties(Dtype dtype, const Shape& shape, const Layout& layout, ExitCode code,
                        const std::string& where) {
  const std::string problem = "cannot lay out " + where;
  Any properties(check(H5Pcreate(H5P_DATASET_CREATE), code, problem));
  // No time stamps: the same values make the same bytes.
  check(H5Pset_obj_track_times(properties.get(), false), code, problem);
  const bool filtered = layout.checksum || layout.gzip_level > 0;
  if (shape.empty() || (layout.chunk.empty() && !filtered)) return properties;
  const Shape chunk = layout.chunk.empty() ? rows_of_about_1_mib(shape, dtype) : layout.chunk;
  check(H5Pset_chunk(properties.get(), static_cast<int>(chunk.size()), sizes(chunk).data()), code, problem);
  if (layout.gzip_level > 0) {
    check(H5Pset_shuffle(properties.get()), code, problem);
    check(H5Pset_deflate(properties.get(), static_cast<unsigned>(layout.gzip_level)), code, problem);
  }
  if (layout.checksum) check(H5Pset_fletcher32(properties.get()), code, problem);
  return properties;
}

// Groups and files carry no time stamps either.
Any without_times(hid_t kind, ExitCode code) {
  Any properties(check(H5Pcreate(kind), code, "cannot make HDF5 creation properties"));
  check(H5Pset_obj_track_times(properties.get(), false), code, "cannot make HDF5 creation properties");
  return properties;
}

DatasetInfo describe(hid_t dataset, ExitCode code, const std::string& where) {
  const Any type(check(H5Dget_type(dataset), code, "cannot read the type of " + where));
  const Any space(check(H5Dget_space(dataset), code, "cannot read the shape of " + where));
  VITRAIL_EXPECT(H5Sget_simple_extent_type(space.get()) != H5S_NULL, code, where + " is empty", "it has no shape", "");
  const int rank = check(H5Sget_simple_extent_ndims(space.get()), code, "cannot read the shape of " + where);
  std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
  check(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), code, "cannot read the shape of " + where);
  return {dtype_of_type(type.get(), code, where), Shape(extents.begin(), extents.end())};
}

// What the operating system says about a file that cannot be opened; empty when it has no objection.
std::string objection_to_reading(const std::filesystem::path& path) {
  std::error_code failure;
  const std::filesystem::file_status status = std::filesystem::status(path, failure);
  if (status.type() == std::filesystem::file_type::not_found) return "no such file";
  if (failure) return failure.message();
  if (std::filesystem::is_directory(status)) return "it is a folder";
  errno = 0;
  if (!std::ifstream(path)) return std::strerror(errno);
  return "";
}

}  // namespace

void FileTraits::close(Handle handle) noexcept {
  const Door door;
  H5Fclose(handle);
}

void DatasetTraits::close(Handle handle) noexcept {
  const Door door;
  H5Dclose(handle);
}

Dataset::Dataset(HandleId handle, DatasetInfo info, std::string where, ExitCode code)
    : handle_(handle), info_(std::move(info)), where_(std::move(where)), code_(code) {}

std::int64_t Dataset::elements() const noexcept { return product(info_.shape); }

void Dataset::read(Dtype as, void* to) const { transfer(true, as, nullptr, nullptr, to); }

void Dataset::read_region(Dtype as, const Shape& start, const Shape& count, void* to) const {
  transfer(true, as, &start, &count, to);
}

// The memory is not written to: transfer is told so.
void Dataset::write(Dtype as, const void* from) { transfer(false, as, nullptr, nullptr, const_cast<void*>(from)); }

void Dataset::write_region(Dtype as, const Shape& start, const Shape& count, const void* from) {
  transfer(false, as, &start, &count, const_cast<void*>(from));
}

std::int64_t Dataset::offset() const {
  const Door door;
  const haddr_t place = H5Dget_offset(handle_.get());
  if (place == HADDR_UNDEF) {
    H5Eclear2(H5E_DEFAULT);
    fail(code_, {text(where_, " has no place in its file"), "it is in pieces, or nothing was written to it", ""});
  }
  return static_cast<std::int64_t>(place);
}

void Dataset::transfer(bool reading, Dtype as, const Shape* start, const Shape* count, void* memory) const {
  const Door door;
  const std::string problem = (reading ? "cannot read " : "cannot write ") + where_;
  expect_convertible(reading ? info_.dtype : as, reading ? as : info_.dtype, code_, where_);
  Any file_space(check(H5Dget_space(handle_.get()), code_, problem));
  Any memory_space(check(H5Scopy(file_space.get()), code_, problem));
  if (start != nullptr) {
    VITRAIL_EXPECT(start->size() == info_.shape.size() && count->size() == info_.shape.size(), code_,
                   text(problem, ": a region of ", start->size(), " dimensions"),
                   text("its shape is ", text_of(info_.shape)), "");
    for (std::size_t i = 0; i < start->size(); ++i) {
      VITRAIL_EXPECT((*start)[i] >= 0 && (*count)[i] >= 0 && (*start)[i] <= info_.shape[i] - (*count)[i], code_,
                     text(problem, ": region from ", text_of(*start), " of size ", text_of(*count)),
                     text("it lies outside the shape ", text_of(info_.shape)), "");
    }
    if (product(*count) == 0) return;
    if (!start->empty()) {
      check(H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, sizes(*start).data(), nullptr, sizes(*count).data(),
                                nullptr),
            code_, problem);
      memory_space =
          Any(check(H5Screate_simple(static_cast<int>(count->size()), sizes(*count).data(), nullptr), code_, problem));
    }
  }
  if (elements() == 0) return;
  const Any type = type_in_memory(as, code_);
  // Without a conversion nothing can be lost, and making properties costs more than reading a small row.
  const Any strict = as == info_.dtype ? Any() : strict_transfer(code_);
  const hid_t transfer_properties = strict ? strict.get() : H5P_DEFAULT;
  check(reading
            ? H5Dread(handle_.get(), type.get(), memory_space.get(), file_space.get(), transfer_properties, memory)
            : H5Dwrite(handle_.get(), type.get(), memory_space.get(), file_space.get(), transfer_properties, memory),
        code_, problem);
}

File::File(HandleId handle, std::string path, ExitCode code) : handle_(handle), path_(std::move(path)), code_(code) {}

File File::open(const std::filesystem::path& path, ExitCode code) { return open_existing(path, true, code); }

File File::append(const std::filesystem::path& path, ExitCode code) { return open_existing(path, false, code); }

File File::open_existing(const std::filesystem::path& path, bool for_reading, ExitCode code) {
  const Door door;
  const std::string objection = objection_to_reading(path);
  VITRAIL_EXPECT(objection.empty(), code, text("cannot open '", path.string(), "'"), objection, "Is the path right?");
  const Any properties = file_access(for_reading, code);
  const HandleId handle = H5Fopen(path.c_str(), for_reading ? H5F_ACC_RDONLY : H5F_ACC_RDWR, properties.get());
  if (handle < 0) {
    fail(code, {text("cannot open '", path.string(), "'"), reason(),
                "The file is damaged, cut short or not an HDF5 file; restore it or make it again"});
  }
  return {handle, path.string(), code};
}

File File::create(const std::filesystem::path& path, ExitCode code) {
  const Door door;
  const Any properties = file_access(false, code);
  const Any creation = without_times(H5P_FILE_CREATE, code);
  const std::string problem = text("cannot create '", path.string(), "'");
  return {check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), properties.get()), code, problem), path.string(),
          code};
}

std::string File::name_of_object(std::string_view kind, const std::string& object) const {
  return text(kind, " '", object, "' of '", path_, "'");
}

bool File::has(const std::string& object) const {
  const Door door;
  // Every step on the way must exist before the next one may be asked for.
  for (std::size_t at = object.find_first_not_of('/'); at < object.size();) {
    const std::size_t end = std::min(object.find('/', at), object.size());
    if (H5Lexists(handle_.get(), object.substr(0, end).c_str(), H5P_DEFAULT) <= 0) {
      H5Eclear2(H5E_DEFAULT);
      return false;
    }
    at = object.find_first_not_of('/', end);
  }
  return true;
}

std::vector<Child> File::children(const std::string& group) const {
  const Door door;
  const std::string where = name_of_object("group", group);
  const Any opened = open_object(handle_.get(), group, code_, where);
  VITRAIL_EXPECT(H5Iget_type(opened.get()) == H5I_GROUP, code_, "not a group: " + where, "it has no children", "");
  H5G_info_t info{};
  check(H5Gget_info(opened.get(), &info), code_, "cannot read " + where);
  std::vector<Child> found;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    char name[1024];
    const ssize_t length =
        check(H5Lget_name_by_idx(opened.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT),
              code_, "cannot list " + where);
    VITRAIL_EXPECT(static_cast<std::size_t>(length) < sizeof name, code_, "cannot list " + where,
                   "a name in it is longer than 1023 bytes", "");
    const Any child = open_object(opened.get(), name, code_, name_of_object("object", group + "/" + name));
    found.push_back({name, H5Iget_type(child.get()) == H5I_GROUP});
  }
  return found;
}

std::vector<std::string> File::datasets_below(const std::string& group) const {
  std::vector<std::string> found;
  for (const Child& child : children(group)) {
    if (!child.is_group) {
      found.push_back(child.name);
      continue;
    }
    for (const std::string& below : datasets_below(group + "/" + child.name)) found.push_back(child.name + "/" + below);
  }
  std::sort(found.begin(), found.end());
  return found;
}

Dataset File::open_dataset(const std::string& dataset, std::int64_t cache_bytes) const {
  const Door door;
  const std::string where = name_of_object("dataset", dataset);
  VITRAIL_EXPECT(has(dataset), code_, "there is no " + where, "it is needed", "Is this the right kind of file?");
  const Any access(check(H5Pcreate(H5P_DATASET_ACCESS), code_, "cannot open " + where));
  if (cache_bytes > 0) {
    check(H5Pset_chunk_cache(access.get(), kCacheSlots, static_cast<std::size_t>(cache_bytes), 1.0), code_,
          "cannot open " + where);
  }
  Any opened(check(H5Dopen2(handle_.get(), dataset.c_str(), access.get()), code_, "cannot open " + where));
  DatasetInfo info = describe(opened.get(), code_, where);
  return {opened.release(), std::move(info), where, code_};
}

Dataset File::create_dataset(const std::string& dataset, Dtype dtype, const Shape& shape, const Layout& layout) {
  const Door door;
  const std::string where = name_of_object("dataset", dataset);
  const std::string problem = "cannot create " + where;
  const Any space(check(shape.empty() ? H5Screate(H5S_SCALAR)
                                      : H5Screate_simple(static_cast<int>(shape.size()), sizes(shape).data(), nullptr),
                        code_, problem));
  const Any type = type_in_file(dtype, code_);
  if (const std::size_t slash = dataset.rfind('/'); slash != std::string::npos) create_group(dataset.substr(0, slash));
  const Any creation = creation_properties(dtype, shape, layout, code_, where);
  const HandleId handle = check(
      H5Dcreate2(handle_.get(), dataset.c_str(), type.get(), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
      code_, problem);
  return {handle, {dtype, shape}, where, code_};
}

void File::create_group(const std::string& group) {
  const Door door;
  if (has(group)) return;
  // One by one: groups that HDF5 makes on the way by itself carry time stamps.
  if (const std::size_t slash = group.rfind('/'); slash != std::string::npos) create_group(group.substr(0, slash));
  const Any creation = without_times(H5P_GROUP_CREATE, code_);
  const Any made(check(H5Gcreate2(handle_.get(), group.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), code_,
                       "cannot create " + name_of_object("group", group)));
}

void File::read(const std::string& dataset, Dtype as, const Shape& shape, void* to) const {
  const Dataset opened = open_dataset(dataset);
  VITRAIL_EXPECT(opened.info().shape == shape, code_,
                 text(name_of_object("dataset", dataset), " has the shape ", text_of(opened.info().shape)),
                 text("expected was ", text_of(shape)), "");
  opened.read(as, to);
}

void File::expect_one(const std::string& dataset, std::size_t elements) const {
  VITRAIL_EXPECT(elements == 1, code_, text(name_of_object("dataset", dataset), " has ", elements, " elements"),
                 "exactly one is expected", "");
}

void File::flush() {
  const Door door;
  check(H5Fflush(handle_.get(), H5F_SCOPE_GLOBAL), code_, text("cannot write '", path_, "'"));
}

void File::close() {
  const Door door;
  // Flushed first: after a failed H5Fclose the handle is neither open nor closed.
  flush();
  check(H5Fclose(handle_.release()), code_, text("cannot finish '", path_, "'"));
}

}  // namespace vitrail::h5
