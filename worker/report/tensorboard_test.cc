#include "worker/report/tensorboard.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::worker {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// A reader of our own: CRC bit by bit, protobuf's wire format by hand.

uint32_t CrcByBits(std::string_view bytes) {
  uint32_t crc = ~0U;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int i = 0; i < 8; ++i) {
      crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78U : 0U);
    }
  }
  return ~crc;
}

template <typename T>
T FromLittleEndian(std::string_view bytes) {
  T value{};  // the tests run on little-endian machines
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

uint32_t Unmask(uint32_t masked) {
  const uint32_t rotated = masked - 0xa282ead8U;
  return (rotated >> 17) | (rotated << 15);
}

// Nothing if a CRC is wrong or bytes are left over.
std::optional<std::vector<std::string>> ReadRecords(std::string_view file) {
  std::vector<std::string> records;
  while (!file.empty()) {
    if (file.size() < 16) {
      return std::nullopt;
    }
    const auto length = FromLittleEndian<uint64_t>(file);
    if (CrcByBits(file.substr(0, 8)) !=
            Unmask(FromLittleEndian<uint32_t>(file.substr(8))) ||
        file.size() - 16 < length) {
      return std::nullopt;
    }
    const std::string_view data = file.substr(12, length);
    if (CrcByBits(data) !=
        Unmask(FromLittleEndian<uint32_t>(file.substr(12 + length)))) {
      return std::nullopt;
    }
    records.emplace_back(data);
    file.remove_prefix(16 + length);
  }
  return records;
}

uint64_t TakeVarint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; !bytes.empty() && shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= uint64_t{byte & 0x7fU} << shift;
    if (byte < 0x80) {
      break;
    }
  }
  return value;
}

// The fields of a message by number; a number holds its bytes as they are, a
// varint as eight.
std::map<int, std::string> TakeFields(std::string_view bytes) {
  std::map<int, std::string> fields;
  while (!bytes.empty()) {
    const uint64_t key = TakeVarint(bytes);
    size_t size = 0;
    switch (key & 7U) {
      case 0: {
        const uint64_t value = TakeVarint(bytes);
        fields[static_cast<int>(key >> 3)].assign(
            reinterpret_cast<const char*>(&value), sizeof(value));
        continue;
      }
      case 1:
        size = 8;
        break;
      case 2:
        size = TakeVarint(bytes);
        break;
      case 5:
        size = 4;
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7U);
        return fields;
    }
    fields[static_cast<int>(key >> 3)] = bytes.substr(0, size);
    bytes.remove_prefix(std::min(size, bytes.size()));
  }
  return fields;
}

std::string ReadWhole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

class EventFileTest : public testing::Test {
 protected:
  EventFileTest() {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("shoal_event_file_" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
  }
  ~EventFileTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_F(EventFileTest, AnIndependentReaderFindsTheScalars) {
  const auto made = EventFile::Create(folder_ / "deep" / "run", 1700000000.5);
  ASSERT_TRUE(made.ok()) << made.status();
  EventFile& file = **made;
  ASSERT_TRUE(file.AddScalar("train/loss", 100, 0.625, 1700000001.25).ok());
  ASSERT_TRUE(
      file.AddScalar("test/auc", int64_t{1} << 40, 0.75, 1700000002).ok());
  ASSERT_TRUE(file.AddScalar("test/auc", 7, std::nan(""), 1700000003).ok());
  ASSERT_TRUE(file.Flush().ok());
  EXPECT_THAT(std::filesystem::path(file.path()).filename().string(),
              StartsWith("events.out.tfevents.1700000000."));

  const auto records = ReadRecords(ReadWhole(file.path()));
  ASSERT_TRUE(records.has_value());
  ASSERT_EQ(records->size(), 4U);
  std::map<int, std::string> head = TakeFields((*records)[0]);
  EXPECT_EQ(head[3], "brain.Event:2");
  EXPECT_EQ(FromLittleEndian<double>(head[1]), 1700000000.5);

  std::map<int, std::string> event = TakeFields((*records)[1]);
  EXPECT_EQ(FromLittleEndian<double>(event[1]), 1700000001.25);
  EXPECT_EQ(FromLittleEndian<int64_t>(event[2]), 100);
  std::map<int, std::string> value = TakeFields(TakeFields(event[5])[1]);
  EXPECT_EQ(value[1], "train/loss");
  EXPECT_EQ(FromLittleEndian<float>(value[2]), 0.625F);

  event = TakeFields((*records)[2]);
  EXPECT_EQ(FromLittleEndian<int64_t>(event[2]), int64_t{1} << 40);
  value = TakeFields(TakeFields(TakeFields((*records)[3])[5])[1]);
  EXPECT_TRUE(std::isnan(FromLittleEndian<float>(value[2])));
}

TEST_F(EventFileTest, TheEndOfTheObjectFlushes) {
  std::string path;
  {
    const auto made = EventFile::Create(folder_, 1);
    ASSERT_TRUE(made.ok());
    path = (*made)->path();
    ASSERT_TRUE((*made)->AddScalar("train/loss", 1, 2, 3).ok());
  }
  const auto records = ReadRecords(ReadWhole(path));
  ASSERT_TRUE(records.has_value());
  EXPECT_EQ(records->size(), 2U);
}

TEST_F(EventFileTest, TwoFilesOfOneSecondDiffer) {
  const auto first = EventFile::Create(folder_, 1);
  const auto second = EventFile::Create(folder_, 1);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE((*first)->path(), (*second)->path());
}

TEST_F(EventFileTest, AFolderThatCannotBeIsUnavailable) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / "file") << "x";
  const Status status = EventFile::Create(folder_ / "file", 1).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr((folder_ / "file").string()));
}

TEST_F(EventFileTest, AFullDiskIsResourceExhausted) {
  if (!std::filesystem::exists("/dev/full")) {
    GTEST_SKIP() << "no /dev/full";
  }
  // Names end with a count: a link to the full device takes the next one.
  const auto made = EventFile::Create(folder_, 5);
  ASSERT_TRUE(made.ok());
  const std::string& path = (*made)->path();
  const size_t dot = path.rfind('.') + 1;
  const std::string next =
      path.substr(0, dot) + std::to_string(std::stoi(path.substr(dot)) + 1);
  std::filesystem::create_symlink("/dev/full", next);
  const Status status = EventFile::Create(folder_, 5).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace shoal::worker
