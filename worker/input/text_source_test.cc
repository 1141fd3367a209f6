#include "worker/input/text_source.h"

#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"
#include "worker/input/test_files.h"

namespace shoal::worker::input_tests {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// All of a file, read in pieces of `piece` bytes.
StatusOr<std::string> ReadText(const std::string& path, size_t piece) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<TextSource> source,
                         TextSource::Open(path));
  std::string text;
  for (;;) {
    std::string buffer(piece, '\0');
    SHOAL_ASSIGN_OR_RETURN(const size_t got,
                           source->Read(buffer.data(), piece));
    text.append(buffer, 0, got);
    if (got < piece) {
      return text;
    }
  }
}

std::string LongText() {
  std::string text;
  Random random(7);
  for (int i = 0; i < 200000; ++i) {
    text += StrCat(random() % 1000, i % 10 == 9 ? "\n" : ",");
  }
  return text;
}

TEST(TextSourceTest, PlainGzipAndZstdGiveTheSameText) {
  const TempFolder folder;
  const std::string text = LongText();
  for (const std::string& path :
       {folder.Write("a", text), folder.Write("b", GzipOf(text)),
        folder.Write("c", ZstdOf(text))}) {
    for (const size_t piece : {size_t{1} << 22, size_t{1000}, size_t{65536}}) {
      StatusOr<std::string> got = ReadText(path, piece);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_TRUE(*got == text) << path << " in pieces of " << piece;
    }
  }
}

TEST(TextSourceTest, JoinedArchivesAreReadOneAfterAnother) {
  const TempFolder folder;
  const std::string gzip = folder.Write("a", GzipOf("one\n") + GzipOf("two\n"));
  const std::string padded =
      folder.Write("b", GzipOf("one\n") + std::string(512, '\0'));
  const std::string zstd = folder.Write("c", ZstdOf("one\n") + ZstdOf("two\n"));
  EXPECT_EQ(ReadText(gzip, 3).value(), "one\ntwo\n");
  EXPECT_EQ(ReadText(padded, 3).value(), "one\n");
  EXPECT_EQ(ReadText(zstd, 3).value(), "one\ntwo\n");
}

TEST(TextSourceTest, ByteOrderMarkIsLeftOut) {
  const TempFolder folder;
  EXPECT_EQ(ReadText(folder.Write("a", "\xef\xbb\xbfx,y"), 100).value(), "x,y");
  EXPECT_EQ(ReadText(folder.Write("b", GzipOf("\xef\xbb\xbfx,y")), 2).value(),
            "x,y");
  EXPECT_EQ(ReadText(folder.Write("c", "\xef\xbb"), 100).value(), "\xef\xbb");
}

TEST(TextSourceTest, EmptyFileHasNoText) {
  const TempFolder folder;
  EXPECT_EQ(ReadText(folder.Write("a", ""), 100).value(), "");
  EXPECT_EQ(ReadText(folder.Write("b", GzipOf("")), 100).value(), "");
}

TEST(TextSourceTest, ArchivesCutOffAnywhereAreErrorsThatNameTheFile) {
  const TempFolder folder;
  const std::string text = LongText();
  for (const bool zstd : {false, true}) {
    const std::string whole = zstd ? ZstdOf(text) : GzipOf(text);
    for (const size_t size :
         {size_t{5}, size_t{17}, whole.size() / 2, whole.size() - 1}) {
      const std::string path =
          folder.Write(zstd ? "z" : "g", whole.substr(0, size));
      EXPECT_THAT(ErrorOf(ReadText(path, 65536)),
                  AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(path),
                        HasSubstr("cut off")))
          << size;
    }
  }
}

TEST(TextSourceTest, DamagedArchivesAreErrorsThatNameTheFile) {
  const TempFolder folder;
  const std::string text = LongText();
  for (const bool zstd : {false, true}) {
    std::string bytes = zstd ? ZstdOf(text) : GzipOf(text);
    bytes[6 + bytes.size() / 2] ^= 0x5a;
    bytes[9 + bytes.size() / 2] ^= 0x33;
    const std::string path = folder.Write(zstd ? "z" : "g", bytes);
    EXPECT_THAT(ErrorOf(ReadText(path, 65536)),
                AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(path)));
  }
  const std::string path = folder.Write("t", GzipOf("x\n") + "trailing text");
  EXPECT_THAT(ErrorOf(ReadText(path, 100)), HasSubstr("damaged"));
}

TEST(TextSourceTest, MissingFileAndFolderAreErrorsThatNameThem) {
  const TempFolder folder;
  EXPECT_THAT(ErrorOf(ReadText(folder.File("none"), 1)),
              AllOf(HasSubstr("NOT_FOUND"), HasSubstr(folder.File("none"))));
  EXPECT_THAT(ErrorOf(ReadText(folder.path(), 1)), HasSubstr("is a folder"));
}

TEST(TextSourceTest, RandomBytesAfterAMagicNeverCrash) {
  const TempFolder folder;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    std::string bytes = seed % 2 == 0 ? "\x1f\x8b\x08" : "\x28\xb5\x2f\xfd";
    for (uint64_t i = random.Below(400); i > 0; --i) {
      bytes += static_cast<char>(random());
    }
    SCOPED_TRACE(StrCat("seed ", seed));
    (void)ReadText(folder.Write("x", bytes), 4096);
  }
}

}  // namespace
}  // namespace shoal::worker::input_tests
