#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "convert/npy_header.hpp"
#include "tests/convert/sample_tensors.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using testing::expect_says;

std::string with_length(const std::string& dictionary, int version) {
  std::string header = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) header += static_cast<char>(dictionary.size() >> (8 * i) & 0xFF);
  return header + dictionary;
}

NpyHeader read(const std::string& header, std::size_t data_bytes) {
  const std::string file = header + std::string(data_bytes, '\0');
  const NpyBytes bytes = [&](std::int64_t offset, void* to, std::int64_t count) {
    ASSERT_LE(offset + count, static_cast<std::int64_t>(file.size()));
    std::memcpy(to, file.data() + offset, static_cast<std::size_t>(count));
  };
  return read_npy_header(bytes, static_cast<std::int64_t>(file.size()), "tensor 'x'");
}

NpyHeader read_dictionary(const std::string& dictionary, std::size_t data_bytes) {
  return read(with_length(dictionary, 1), data_bytes);
}

TEST(NpyHeader, ReadsWhatItWrites) {
  for (const testing::SampleTensor& sample : testing::sample_tensors()) {
    const std::string header = npy_header(sample.info);
    EXPECT_EQ(header.size() % 64, 0U);
    EXPECT_EQ(header.back(), '\n');
    const NpyHeader found = read(header, sample.bytes.size());
    EXPECT_EQ(found.shape, sample.info.shape);
    EXPECT_EQ(found.dtype, sample.info.dtype);
    EXPECT_FALSE(found.half);
    EXPECT_EQ(found.bytes, static_cast<std::int64_t>(header.size()));
  }
}

/// The bytes that NumPy 1.24 writes for numpy.zeros((3,), '<f4').
TEST(NpyHeader, IsNumPysOwn) {
  std::string numpy =
      std::string("\x93NUMPY\x01\x00v\x00", 10) + "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }";
  numpy.resize(127, ' ');
  EXPECT_EQ(npy_header({"x", {3}, Dtype::f32}), numpy + '\n');
}

TEST(NpyHeader, ReadsVersionsOneToThree) {
  const std::string dictionary = "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }\n";
  for (const int version : {1, 2, 3}) EXPECT_EQ(read(with_length(dictionary, version), 48).shape, (Shape{2, 3}));
  expect_says(error_of([&] { read(with_length(dictionary, 4), 48); }), "version 4");
  expect_says(error_of([&] { read(with_length(dictionary, 0), 48); }), "version 0");
}

TEST(NpyHeader, ReadsOtherWaysToSayTheSame) {
  const NpyHeader header = read_dictionary("{\"shape\":(2L,3L),\n \"descr\" : 'V2','fortran_order':False}", 12);
  EXPECT_EQ(header.shape, (Shape{2, 3}));
  EXPECT_EQ(header.dtype, Dtype::bf16);
  EXPECT_TRUE(read_dictionary("{'descr': '<f2', 'fortran_order': False, 'shape': (4,), }", 8).half);
  // Order says nothing about a row, a column, or nothing.
  EXPECT_EQ(read_dictionary("{'descr': '<f4', 'fortran_order': True, 'shape': (4, 1), }", 16).shape, (Shape{4, 1}));
}

TEST(NpyHeader, SaysWhatItDoesNotRead) {
  const auto said = [](const std::string& descr, const std::string& order, const std::string& shape,
                       std::size_t data_bytes) {
    return error_of([&] {
      read_dictionary("{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }", data_bytes);
    });
  };
  expect_says(said("'<f4'", "True", "(2, 3)", 24), "tensor 'x' is stored column by column");
  expect_says(said("'>f4'", "False", "(2, 3)", 24), "tensor 'x' has numbers of type '>f4' (they are big endian)");
  expect_says(said("'<c16'", "False", "(2,)", 32), "numbers of type '<c16'");
  expect_says(said("'|O'", "False", "(2,)", 32), "numbers of type '|O'");
  expect_says(said("[('a', '<f4')]", "False", "(2,)", 8), "records, not numbers");
  expect_says(said("'<f4'", "False", "(2, 3)", 23), "has 23 bytes of data (its header promises 24: '<f4' [2, 3])");
  expect_says(said("'<f4'", "False", "(2, -3)", 24), "an axis of length -3");
  expect_says(said("'<f4'", "False", "(1,1,1,1,1,1,1)", 4), "has 7 axes");
  expect_says(said("'<f4'", "False", "(4294967296, 4294967296)", 4), "too large");
  expect_says(said("'<f4'", "False", "(99999999999999999999,)", 4), "a whole number is expected");
  expect_says(said("'<f4'", "0", "(1,)", 4), "True or False");
  expect_says(error_of([] { npy_header({"x", {1}, Dtype::c128}); }), "tensor 'x' of c128 cannot be written");
}

TEST(NpyHeader, RefusesDamagedHeaders) {
  const auto said = [](const std::string& dictionary) { return error_of([&] { read_dictionary(dictionary, 4); }); };
  for (const char* damaged :
       {"", "{", "{}", "{'descr': '<f4'}", "{'descr': '<f4", "{'descr' '<f4'}", "{'x': 1}", "[]",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1}", "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x"}) {
    expect_says(said(damaged), "tensor 'x' has no .npy header that can be read");
  }
  expect_says(error_of([] { read("\x93NUMPZ....", 4); }), "does not begin with");
  expect_says(error_of([] { read("\x93NUM", 0); }), "it has only 4 bytes");
  expect_says(error_of([] { read(std::string("\x93NUMPY\x02\x00\xFF\xFF", 10), 0); }), "it has only 10 bytes");
  expect_says(error_of([] { read(std::string("\x93NUMPY\x02\x00\xFF\xFF\xFF\x7F", 12), 99); }),
              "a .npy header of 2147483647 bytes");
}

TEST(NpyHeader, AnswersDamageOfAnyKindWithAnError) {
  const std::string intact = npy_header({"x", {3, 4, 5}, Dtype::f32});
  std::mt19937 random(3);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = intact;
    for (std::size_t changes = 1 + random() % 3; changes > 0; --changes) {
      damaged[random() % 72] = static_cast<char>(random() % 2 == 0 ? random() : "{}'(),: 019"[random() % 11]);
    }
    const Error error = error_of([&] { read(damaged, 240); });
    if (error.code() != ExitCode::done) expect_says(error, "tensor 'x'");
    refused += error.code() != ExitCode::done ? 1 : 0;
  }
  EXPECT_GT(refused, 15000);
}

}  // namespace
}  // namespace vitrail
