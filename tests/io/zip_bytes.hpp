#pragma once
// Zip archives made by hand, byte by byte, so that they can lie. Format: PKWARE's APPNOTE.TXT, section 4.3.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <zlib.h>

namespace vitrail::testing {

struct HandMadeEntry {
  std::string name;
  std::string data;
  bool deflated = false;
  std::uint16_t method = deflated ? 8 : 0;
  std::uint16_t flags = 0;
  std::optional<std::uint32_t> claimed_bytes = std::nullopt;  ///< uncompressed, instead of the truth
};

inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string written;
  for (int i = 0; i < bytes; ++i, value >>= 8) written += static_cast<char>(value & 0xFF);
  return written;
}

inline std::string deflate_raw(const std::string& data) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, data.size()), '\0');
  std::string in = data;
  stream.next_in = reinterpret_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline std::string zip_bytes(const std::vector<HandMadeEntry>& entries) {
  std::string files;
  std::string directory;
  for (const HandMadeEntry& entry : entries) {
    const std::string stored = entry.deflated ? deflate_raw(entry.data) : entry.data;
    const auto sum = crc32(0, reinterpret_cast<const Bytef*>(entry.data.data()), static_cast<uInt>(entry.data.size()));
    const std::string facts = little_endian(20, 2) + little_endian(entry.flags, 2) + little_endian(entry.method, 2) +
                              little_endian(0x00210000, 4) + little_endian(sum, 4) + little_endian(stored.size(), 4) +
                              little_endian(entry.claimed_bytes.value_or(entry.data.size()), 4) +
                              little_endian(entry.name.size(), 2) + little_endian(0, 2);
    directory += "PK\x01\x02" + little_endian(20, 2) + facts + little_endian(0, 2 + 2 + 2 + 4) +
                 little_endian(files.size(), 4) + entry.name;
    files.append("PK\x03\x04").append(facts).append(entry.name).append(stored);
  }
  return files + directory + "PK\x05\x06" + little_endian(0, 4) + little_endian(entries.size(), 2) +
         little_endian(entries.size(), 2) + little_endian(directory.size(), 4) + little_endian(files.size(), 4) +
         little_endian(0, 2);
}

}  // namespace vitrail::testing
