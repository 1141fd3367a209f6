#include "base/plugin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

namespace shoal {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

TEST(PluginTest, OwnProgramPathIsThisProgram) {
  const auto path = OwnProgramPath();
  ASSERT_TRUE(path.ok()) << path.status();
  struct stat by_path = {};
  struct stat by_proc = {};
  ASSERT_EQ(stat(path->c_str(), &by_path), 0);
  ASSERT_EQ(stat("/proc/self/exe", &by_proc), 0);
  EXPECT_EQ(by_path.st_ino, by_proc.st_ino);
  const auto plugin = PluginPath("none");
  ASSERT_TRUE(plugin.ok()) << plugin.status();
  EXPECT_THAT(*plugin, EndsWith("/libnone.so"));
}

TEST(PluginTest, WhatDoesNotLoadSaysWhy) {
  const auto missing = LoadPlugin("/no/libnone.so", "symbol", false);
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(), HasSubstr("/no/libnone.so"));
  const auto other = LoadPlugin("libc.so.6", "ShoalNoSuchTable", false);
  EXPECT_EQ(other.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(other.status().message(), HasSubstr("ShoalNoSuchTable"));
}

}  // namespace
}  // namespace shoal
