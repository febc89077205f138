#pragma once
// HDF5 files: every HDF5 call of the project is behind this header.
//
// A failure is an Error with the exit code that was given when the file was opened (ExitCode::data for training data,
// ExitCode::checkpoint for checkpoints) and HDF5's own explanation; HDF5 prints nothing itself. Objects are named by
// paths inside the file ("/params/Encoder/bias"; the leading '/' may be missing). Arrays are row-major and dense in
// memory. Values are converted between the type in the file and the one in memory (f32 <-> f64, i32 -> i64, ...); a
// value that does not fit, and reading fractions as integers, is an Error. c128 is not stored.
//
// Several threads may use different files at the same time. One file belongs to one thread at a time.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.hpp"
#include "base/error.hpp"
#include "base/unique_handle.hpp"

namespace vitrail::h5 {

using Shape = std::vector<std::int64_t>;

/// HDF5's handle type hid_t, named here so that its headers stay inside this room.
using HandleId = std::int64_t;

struct FileTraits {
  using Handle = HandleId;
  static constexpr Handle null = -1;
  static void close(Handle handle) noexcept;
};
struct DatasetTraits {
  using Handle = HandleId;
  static constexpr Handle null = -1;
  static void close(Handle handle) noexcept;
};

struct DatasetInfo {
  Dtype dtype{};  ///< the type in the file
  Shape shape;    ///< empty: a scalar
};

struct Child {
  std::string name;  ///< without the path of its group
  bool is_group = false;
};

/// How a new dataset lies in the file. A scalar ignores all of it.
struct Layout {
  Shape chunk = {};       ///< empty: contiguous, or runs of rows of about 1 MiB where a filter needs chunks
  bool checksum = false;  ///< Fletcher-32 per chunk: a flipped bit is an Error when the chunk is read
  int gzip_level = 0;     ///< 0: not compressed; else 1 .. 9, with the shuffle filter
};

/// An open dataset: saves looking it up again when it is read piece by piece. Must not be used after its file is
/// closed.
class Dataset {
 public:
  [[nodiscard]] const DatasetInfo& info() const noexcept { return info_; }
  [[nodiscard]] std::int64_t elements() const noexcept;

  /// Reads everything: elements() values of type `as`.
  void read(Dtype as, void* to) const;
  /// Reads the box start .. start+count of each dimension; `to` holds the product of count values.
  void read_region(Dtype as, const Shape& start, const Shape& count, void* to) const;
  void write(Dtype as, const void* from);
  void write_region(Dtype as, const Shape& start, const Shape& count, const void* from);
  /// Where in the file the bytes of a contiguous dataset lie, in one run. They have a place from the first write on,
  /// and keep it; without one, an Error.
  [[nodiscard]] std::int64_t offset() const;

 private:
  friend class File;
  Dataset(HandleId handle, DatasetInfo info, std::string where, ExitCode code);
  void transfer(bool reading, Dtype as, const Shape* start, const Shape* count, void* memory) const;

  UniqueHandle<DatasetTraits> handle_;
  DatasetInfo info_;
  std::string where_;  ///< "dataset 'x' of 'file'", for messages
  ExitCode code_;
};

class File {
 public:
  /// Opens an existing file for reading. Missing, truncated or not HDF5: Error(code).
  static File open(const std::filesystem::path& path, ExitCode code);
  /// Makes a new file for reading and writing; an old one of that name is lost.
  static File create(const std::filesystem::path& path, ExitCode code);
  /// Opens an existing file to add objects to it. What is in it stays where it is.
  static File append(const std::filesystem::path& path, ExitCode code);

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Is there a group or dataset of this name?
  [[nodiscard]] bool has(const std::string& object) const;
  /// Groups and datasets directly in a group, by name.
  [[nodiscard]] std::vector<Child> children(const std::string& group) const;
  /// Paths, relative to `group`, of all datasets in it and in the groups below: "Encoder/bias", ...; sorted by name.
  [[nodiscard]] std::vector<std::string> datasets_below(const std::string& group) const;
  [[nodiscard]] DatasetInfo info(const std::string& dataset) const { return open_dataset(dataset).info(); }

  /// cache_bytes: chunks kept in memory for regions read again and again; 0: HDF5's default of 1 MiB.
  [[nodiscard]] Dataset open_dataset(const std::string& dataset, std::int64_t cache_bytes = 0) const;
  /// Also makes the groups on the way. A dataset of that name must not exist.
  Dataset create_dataset(const std::string& dataset, Dtype dtype, const Shape& shape, const Layout& layout = {});
  /// Also makes the groups on the way; one that exists already is left as it is.
  void create_group(const std::string& group);

  /// The whole dataset, converted to T.
  template <class T>
  [[nodiscard]] std::vector<T> read(const std::string& dataset) const {
    const Dataset opened = open_dataset(dataset);
    std::vector<T> values(static_cast<std::size_t>(opened.elements()));
    opened.read(dtype_of<T>, values.data());
    return values;
  }
  /// The only value of a scalar or one-element dataset.
  template <class T>
  [[nodiscard]] T read_scalar(const std::string& dataset) const {
    const std::vector<T> values = read<T>(dataset);
    expect_one(dataset, values.size());
    return values.front();
  }
  /// The whole dataset into `to`; a shape in the file other than `shape` is an Error.
  void read(const std::string& dataset, Dtype as, const Shape& shape, void* to) const;
  void read_region(const std::string& dataset, Dtype as, const Shape& start, const Shape& count, void* to) const {
    open_dataset(dataset).read_region(as, start, count, to);
  }
  /// Creates a dataset and writes all of it.
  void write(const std::string& dataset, Dtype dtype, const Shape& shape, const void* from, const Layout& layout = {}) {
    create_dataset(dataset, dtype, shape, layout).write(dtype, from);
  }
  void write_region(const std::string& dataset, Dtype as, const Shape& start, const Shape& count, const void* from) {
    open_dataset(dataset).write_region(as, start, count, from);
  }

  /// Attributes of a group or dataset ("/" is the file's own). Strings are UTF-8, stored with a fixed length.
  [[nodiscard]] bool has_attribute(const std::string& object, const std::string& name) const;
  [[nodiscard]] std::string read_string(const std::string& object, const std::string& name) const;
  [[nodiscard]] std::int64_t read_integer(const std::string& object, const std::string& name) const;
  [[nodiscard]] double read_real(const std::string& object, const std::string& name) const;
  [[nodiscard]] std::vector<std::int64_t> read_integers(const std::string& object, const std::string& name) const;
  /// Replace an attribute of that name.
  void write_string(const std::string& object, const std::string& name, std::string_view value);
  void write_integer(const std::string& object, const std::string& name, std::int64_t value);
  void write_real(const std::string& object, const std::string& name, double value);

  /// Hands everything to the operating system (which may still hold it in memory: see base/file.hpp, sync_to_disk).
  void flush();
  /// Closes and reports what the destructor would swallow: a full disk is often noticed only here.
  void close();

 private:
  File(HandleId handle, std::string path, ExitCode code);
  static File open_existing(const std::filesystem::path& path, bool for_reading, ExitCode code);
  void expect_one(const std::string& dataset, std::size_t elements) const;
  [[nodiscard]] std::string name_of_object(std::string_view kind, const std::string& object) const;
  void write_attribute(const std::string& object, const std::string& name, HandleId type, const void* value);
  void read_numbers(const std::string& object, const std::string& name, Dtype as, void* values) const;
  [[nodiscard]] std::int64_t attribute_elements(const std::string& object, const std::string& name) const;

  UniqueHandle<FileTraits> handle_;
  std::string path_;
  ExitCode code_;
};

}  // namespace vitrail::h5
