#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/h5.hpp"

namespace vitrail {
namespace {

class H5 : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::filesystem::path file(const std::string& name) const { return folder_ / name; }

 private:
  std::filesystem::path folder_ = std::filesystem::temp_directory_path() / ("vitrail-h5-" + std::to_string(getpid()));
};

// The text of the Error that `action` throws, after its code was checked.
template <class Action>
std::string error_of(ExitCode code, Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

bool says(const std::string& message, const std::string& part) {
  if (message.find(part) != std::string::npos) return true;
  ADD_FAILURE() << "'" << part << "' is not in: " << message;
  return false;
}

void overwrite_byte(const std::filesystem::path& path, std::int64_t at) {
  std::fstream bytes(path, std::ios::in | std::ios::out | std::ios::binary);
  bytes.seekg(at);
  const int old = bytes.get();
  bytes.seekp(at);
  bytes.put(static_cast<char>(old ^ 0x10));
}

TEST_F(H5, ReadsBackWhatItWroteInEveryType) {
  const std::vector<float> reals{1.5F, -2.25F, 3.0F, 0.0F, 1e-30F, 1e30F};
  const std::vector<std::int64_t> longs{-(std::int64_t{1} << 40), 7};
  const std::vector<std::int32_t> ints{-1, 2147483647};
  const std::vector<std::uint8_t> bytes{0, 255};
  const std::vector<double> doubles{0.1};
  {
    h5::File out = h5::File::create(file("a.h5"), ExitCode::data);
    out.write("/params/Encoder/kernel", Dtype::f32, {2, 3}, reals.data());
    out.write("longs", Dtype::i64, {2}, longs.data());
    out.write("ints", Dtype::i32, {2}, ints.data());
    out.write("bytes", Dtype::u8, {2, 1}, bytes.data());
    out.write("scalar", Dtype::f64, {}, doubles.data());
    out.close();
  }
  const h5::File in = h5::File::open(file("a.h5"), ExitCode::data);
  EXPECT_EQ(in.info("params/Encoder/kernel").dtype, Dtype::f32);
  EXPECT_EQ(in.info("params/Encoder/kernel").shape, (h5::Shape{2, 3}));
  EXPECT_EQ(in.read<float>("/params/Encoder/kernel"), reals);
  EXPECT_EQ(in.read<std::int64_t>("longs"), longs);
  EXPECT_EQ(in.read<std::int32_t>("ints"), ints);
  EXPECT_EQ(in.read<std::uint8_t>("bytes"), bytes);
  EXPECT_EQ(in.read_scalar<double>("scalar"), 0.1);
  EXPECT_TRUE(in.info("scalar").shape.empty());
}

TEST_F(H5, ConvertsBetweenTypesAndRefusesToLoseValues) {
  h5::File both = h5::File::create(file("a.h5"), ExitCode::checkpoint);
  const std::vector<double> reals{0.5, 1e300};
  const std::vector<std::int64_t> longs{5, std::int64_t{1} << 40};
  both.write("reals", Dtype::f64, {2}, reals.data());
  both.write("longs", Dtype::i64, {2}, longs.data());
  EXPECT_EQ(both.read<double>("longs"), (std::vector<double>{5.0, 0x1p40}));
  float one = 0;
  both.read_region("reals", Dtype::f32, {0}, {1}, &one);
  EXPECT_EQ(one, 0.5F);
  error_of(ExitCode::checkpoint, [&] { return both.read<float>("reals"); });
  error_of(ExitCode::checkpoint, [&] { return both.read<std::int32_t>("longs"); });
  EXPECT_TRUE(says(error_of(ExitCode::checkpoint, [&] { return both.read<std::int64_t>("reals"); }), "cut off"));
}

TEST_F(H5, StoresBfloat16AsTheUpperHalfOfAFloat) {
  const std::vector<std::uint16_t> upper_halves{0x3F80, 0xC040, 0x7F7F, 0x0001};  // 1, -3, the largest, a subnormal
  h5::File both = h5::File::create(file("a.h5"), ExitCode::data);
  both.write("rounded", Dtype::bf16, {4}, upper_halves.data());
  EXPECT_EQ(both.info("rounded").dtype, Dtype::bf16);
  std::vector<std::uint16_t> again(4);
  both.read("rounded", Dtype::bf16, {4}, again.data());
  EXPECT_EQ(again, upper_halves);
  EXPECT_EQ(both.read<float>("rounded"), (std::vector<float>{1.0F, -3.0F, 0x1.FEp127F, 0x1p-133F}));
}

TEST_F(H5, KeepsInfinitiesAndNaNsWhenConverting) {
  h5::File both = h5::File::create(file("a.h5"), ExitCode::data);
  const std::vector<double> odd{HUGE_VAL, -HUGE_VAL, std::nan("")};
  both.write("odd", Dtype::f64, {3}, odd.data());
  const std::vector<float> narrowed = both.read<float>("odd");
  EXPECT_EQ(narrowed[0], HUGE_VALF);
  EXPECT_EQ(narrowed[1], -HUGE_VALF);
  EXPECT_TRUE(std::isnan(narrowed[2]));
}

TEST_F(H5, ReadsAndWritesRegions) {
  h5::File both = h5::File::create(file("a.h5"), ExitCode::data);
  std::vector<std::int32_t> table(std::size_t{6} * 5);
  std::iota(table.begin(), table.end(), 0);
  h5::Dataset dataset = both.create_dataset("table", Dtype::i32, {6, 5}, {.chunk = {2, 5}, .checksum = true});
  dataset.write_region(Dtype::i32, {0, 0}, {4, 5}, table.data());
  dataset.write_region(Dtype::i32, {4, 0}, {2, 5}, table.data() + 20);
  EXPECT_EQ(both.read<std::int32_t>("table"), table);
  std::vector<std::int32_t> box(4);
  dataset.read_region(Dtype::i32, {3, 1}, {2, 2}, box.data());
  EXPECT_EQ(box, (std::vector<std::int32_t>{16, 17, 21, 22}));
  dataset.read_region(Dtype::i32, {6, 0}, {0, 5}, nullptr);  // nothing, at the end
  error_of(ExitCode::data, [&] { dataset.read_region(Dtype::i32, {5, 0}, {2, 5}, table.data()); });
  error_of(ExitCode::data, [&] { dataset.read_region(Dtype::i32, {0}, {2}, table.data()); });
  error_of(ExitCode::data, [&] { both.read("table", Dtype::i32, {5, 6}, table.data()); });
}

TEST_F(H5, ListsChildrenAndAllDatasetsBelow) {
  const float zero = 0;
  h5::File both = h5::File::create(file("a.h5"), ExitCode::data);
  both.write("/params/head/bias", Dtype::f32, {1}, &zero);
  both.write("/params/Encoder/norm/scale", Dtype::f32, {1}, &zero);
  both.write("/params/cls", Dtype::f32, {1}, &zero);
  both.create_group("empty");
  EXPECT_EQ(both.datasets_below("/params"), (std::vector<std::string>{"Encoder/norm/scale", "cls", "head/bias"}));
  EXPECT_EQ(both.datasets_below("/empty"), (std::vector<std::string>{}));
  const std::vector<h5::Child> children = both.children("/params");
  ASSERT_EQ(children.size(), 3U);
  EXPECT_EQ(children[0].name, "Encoder");
  EXPECT_TRUE(children[0].is_group);
  EXPECT_FALSE(children[1].is_group);
  EXPECT_TRUE(both.has("/"));
  EXPECT_TRUE(both.has("params/Encoder/norm"));
  EXPECT_FALSE(both.has("params/Decoder/norm"));
  EXPECT_FALSE(both.has("params/cls/deeper"));
  EXPECT_TRUE(says(error_of(ExitCode::data, [&] { return both.info("params/mlp"); }), "there is no dataset"));
  error_of(ExitCode::data, [&] { return both.info("params"); });
}

TEST_F(H5, KeepsAttributesOfFilesGroupsAndDatasets) {
  const std::string long_text(100'000, 'x');
  const std::uint8_t byte = 1;
  {
    h5::File out = h5::File::create(file("a.h5"), ExitCode::data);
    out.create_group("group");
    out.write("group/data", Dtype::u8, {}, &byte);
    out.write_string("/", "name", "first");
    out.write_string("/", "name", "vitrail \xC3\xA9");
    out.write_string("/", "empty", "");
    out.write_string("group", "configuration", long_text);
    out.write_integer("group", "step", std::int64_t{1} << 40);
    out.write_real("group/data", "loss", 0.1);
    out.close();
  }
  const h5::File in = h5::File::open(file("a.h5"), ExitCode::data);
  EXPECT_EQ(in.read_string("/", "name"), "vitrail \xC3\xA9");
  EXPECT_EQ(in.read_string("/", "empty"), "");
  EXPECT_EQ(in.read_string("group", "configuration"), long_text);
  EXPECT_EQ(in.read_integer("group", "step"), std::int64_t{1} << 40);
  EXPECT_EQ(in.read_integers("group", "step"), (std::vector<std::int64_t>{std::int64_t{1} << 40}));
  EXPECT_EQ(in.read_real("group/data", "loss"), 0.1);
  EXPECT_EQ(in.read_real("group", "step"), 0x1p40);
  EXPECT_TRUE(in.has_attribute("group", "step"));
  EXPECT_FALSE(in.has_attribute("group", "stop"));
  error_of(ExitCode::data, [&] { return in.read_integer("group/data", "loss"); });
  error_of(ExitCode::data, [&] { return in.read_string("group", "step"); });
  error_of(ExitCode::data, [&] { return in.read_string("group", "stop"); });
}

TEST_F(H5, WritesTheSameBytesForTheSameValues) {
  for (const char* name : {"a.h5", "b.h5"}) {
    const std::vector<float> values(1000, 0.5F);
    h5::File out = h5::File::create(file(name), ExitCode::data);
    out.write("group/below/x", Dtype::f32, {10, 100}, values.data(), {.gzip_level = 4});
    out.write_integer("/", "n", 3);
    out.close();
    sleep(1);
  }
  std::ifstream a(file("a.h5"), std::ios::binary);
  std::ifstream b(file("b.h5"), std::ios::binary);
  EXPECT_TRUE(std::equal(std::istreambuf_iterator<char>(a), {}, std::istreambuf_iterator<char>(b), {}));
  EXPECT_LT(std::filesystem::file_size(file("a.h5")), 4000U);
}

TEST_F(H5, TellsWhereTheBytesOfADatasetAreAndTheyStayThere) {
  const std::vector<std::uint8_t> values = {201, 202, 203, 204, 205, 206, 207, 208};
  h5::File out = h5::File::create(file("a.h5"), ExitCode::data);
  h5::Dataset first = out.create_dataset("group/first", Dtype::u8, {8});
  EXPECT_TRUE(says(error_of(ExitCode::data, [&] { (void)first.offset(); }), "nothing was written to it"));
  first.write_region(Dtype::u8, {4}, {4}, values.data() + 4);
  const std::int64_t offset = first.offset();
  first.write_region(Dtype::u8, {0}, {4}, values.data());
  out.close();

  h5::File more = h5::File::append(file("a.h5"), ExitCode::data);
  more.write("group/second", Dtype::f64, {1}, values.data());
  more.close();

  const h5::File in = h5::File::open(file("a.h5"), ExitCode::data);
  EXPECT_EQ(in.open_dataset("group/first").offset(), offset);
  EXPECT_EQ(in.datasets_below("group"), (std::vector<std::string>{"first", "second"}));
  std::ifstream bytes(file("a.h5"), std::ios::binary);
  bytes.seekg(offset);
  for (const std::uint8_t value : values) EXPECT_EQ(bytes.get(), value);
  EXPECT_TRUE(says(error_of(ExitCode::data, [&] { h5::File::append(file("no.h5"), ExitCode::data); }), "no such file"));
}

TEST_F(H5, NoticesAFlippedBit) {
  const std::vector<std::uint8_t> images(1 << 20, 7);
  {
    h5::File out = h5::File::create(file("a.h5"), ExitCode::data);
    out.write("images", Dtype::u8, {1024, 1024}, images.data(), {.checksum = true});
    out.close();
  }
  overwrite_byte(file("a.h5"), static_cast<std::int64_t>(std::filesystem::file_size(file("a.h5"))) - 100'000);
  const h5::File in = h5::File::open(file("a.h5"), ExitCode::data);
  const std::string said = error_of(ExitCode::data, [&] { return in.read<std::uint8_t>("images"); });
  EXPECT_TRUE(says(said, "'images'"));
  EXPECT_TRUE(says(said, "a.h5"));
  EXPECT_TRUE(says(said, "hecksum"));
}

TEST_F(H5, SaysWhyAFileCannotBeOpened) {
  const std::vector<double> values(10'000);
  {
    h5::File out = h5::File::create(file("short.h5"), ExitCode::checkpoint);
    out.write("x", Dtype::f64, {10'000}, values.data());
    out.close();
  }
  std::filesystem::resize_file(file("short.h5"), 40'000);
  std::ofstream(file("text.h5")) << "this is not HDF5\n";
  const auto opening = [&](const char* name) {
    return error_of(ExitCode::checkpoint, [&] { h5::File::open(file(name), ExitCode::checkpoint); });
  };
  EXPECT_TRUE(says(opening("missing.h5"), "no such file"));
  EXPECT_TRUE(says(opening(""), "folder"));
  EXPECT_TRUE(says(opening("short.h5"), "truncated"));
  EXPECT_TRUE(says(opening("text.h5"), "signature"));
  EXPECT_TRUE(
      says(error_of(ExitCode::checkpoint, [&] { h5::File::create(file("no/such/a.h5"), ExitCode::checkpoint); }),
           "No such file"));
}

TEST_F(H5, ReportsAFullDiskAndLeavesTheProcessUsable) {
  // A limit on the size of files stands in for the full disk: write() fails in the same way.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit tight{100'000, old.rlim_max};
  const std::vector<double> values(100'000, 1.0);
  setrlimit(RLIMIT_FSIZE, &tight);
  const std::string said = error_of(ExitCode::checkpoint, [&] {
    h5::File out = h5::File::create(file("full.h5"), ExitCode::checkpoint);
    out.write("x", Dtype::f64, {1000, 100}, values.data(), {.checksum = true});
    out.close();
  });
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_TRUE(says(said, "full.h5"));
  EXPECT_TRUE(says(said, "File too large"));
  h5::File out = h5::File::create(file("after.h5"), ExitCode::checkpoint);
  out.write("x", Dtype::f64, {1000, 100}, values.data());
  out.close();
  EXPECT_EQ(h5::File::open(file("after.h5"), ExitCode::checkpoint).read<double>("x"), values);
}

TEST_F(H5, ServesSeveralThreadsAtOnce) {
  const auto work = [&](int which) {
    for (int round = 0; round < 20; ++round) {
      const std::vector<std::int32_t> values(5000, which * 1000 + round);
      const std::filesystem::path path = file(std::to_string(which) + ".h5");
      h5::File out = h5::File::create(path, ExitCode::data);
      out.write("x", Dtype::i32, {50, 100}, values.data(), {.checksum = true});
      out.close();
      EXPECT_EQ(h5::File::open(path, ExitCode::data).read<std::int32_t>("x"), values);
      EXPECT_THROW(h5::File::open(file("missing"), ExitCode::data), Error);
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int which = 0; which < 4; ++which) threads.emplace_back(work, which);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace vitrail
