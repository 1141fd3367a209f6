#include "worker/job_schema.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <memory>
#include <numeric>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/message_differencer.h>

#include "base/strcat.h"
#include "worker/job.pb.h"

namespace shoal::worker {
namespace {

using google::protobuf::FieldDescriptor;

std::vector<std::string> SplitAtBars(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('|', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// Levenshtein's distance: insertions, deletions and changes of one letter.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// Bounds are written like the whole numbers that most of them are.
std::string BoundText(double bound) {
  const auto whole = static_cast<int64_t>(bound);
  return static_cast<double>(whole) == bound ? std::to_string(whole)
                                             : YamlNumber(bound);
}

// Whether a reader would take plain `text` for something else than this text.
bool NeedsQuotes(std::string_view text) {
  static constexpr std::string_view kWords[] = {
      "true", "false", "null", "yes", "no", "on", "off",
      "True", "False", "Null", "Yes", "No", "On", "Off",
      "TRUE", "FALSE", "NULL", "YES", "NO", "ON", "OFF"};
  if (text.empty() || std::find(std::begin(kWords), std::end(kWords), text) !=
                          std::end(kWords)) {
    return true;
  }
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '/' || c == '.' || (c >= '0' && c <= '9') || c == '-';
  };
  const char first = text.front();
  const bool starts_plain = plain(first) && first != '-' && first != '.' &&
                            !(first >= '0' && first <= '9');
  return !starts_plain || !std::all_of(text.begin(), text.end(), plain);
}

}  // namespace

std::string ElementTypeText(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "whole number";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    default:
      return "map";
  }
}

std::string TypeText(const FieldDescriptor& field) {
  if (field.is_map() || !field.is_repeated()) {
    return ElementTypeText(field);
  }
  const std::string element = ElementTypeText(field);
  return StrCat("list of ", element, element == "true or false" ? "" : "s");
}

std::string AllowedText(const FieldDescriptor& field) {
  const auto& options = field.options();
  if (options.HasExtension(one_of)) {
    return JoinOr(AllowedValues(field));
  }
  const bool has_min = options.HasExtension(min);
  const bool has_max = options.HasExtension(max);
  if (has_min && has_max) {
    return StrCat(BoundText(options.GetExtension(min)), " to ",
                  BoundText(options.GetExtension(max)));
  }
  if (has_min) {
    return StrCat(BoundText(options.GetExtension(min)), " or more");
  }
  return has_max ? StrCat("up to ", BoundText(options.GetExtension(max))) : "";
}

std::vector<std::string> AllowedValues(const FieldDescriptor& field) {
  return SplitAtBars(field.options().GetExtension(one_of));
}

std::vector<std::string> AllowedKeys(const FieldDescriptor& field) {
  return SplitAtBars(field.options().GetExtension(key_one_of));
}

std::vector<std::string> ReadBy(const FieldDescriptor& field) {
  return SplitAtBars(field.options().GetExtension(read_by));
}

bool SaysTheDefault(const google::protobuf::Message& message,
                    const FieldDescriptor& field) {
  const std::unique_ptr<google::protobuf::Message> without(message.New());
  without->CopyFrom(message);
  without->GetReflection()->ClearField(without.get(), &field);
  return google::protobuf::util::MessageDifferencer::Equivalent(message,
                                                                *without);
}

std::string HelpText(const FieldDescriptor& field) {
  return field.options().GetExtension(help);
}

std::string DefaultText(const FieldDescriptor& field) {
  if (field.is_repeated() || !field.has_default_value()) {
    return "";
  }
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return std::to_string(field.default_value_int32());
    case FieldDescriptor::CPPTYPE_INT64:
      return std::to_string(field.default_value_int64());
    case FieldDescriptor::CPPTYPE_UINT64:
      return std::to_string(field.default_value_uint64());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return YamlNumber(field.default_value_double());
    case FieldDescriptor::CPPTYPE_BOOL:
      return field.default_value_bool() ? "true" : "false";
    case FieldDescriptor::CPPTYPE_STRING:
      return YamlText(field.default_value_string());
    default:
      return "";
  }
}

std::string YamlNumber(double value) {
  char text[64];
  const auto [end, error] = std::to_chars(text, text + sizeof(text), value);
  return std::string(text, end);
}

std::string YamlText(std::string_view text) {
  if (!NeedsQuotes(text)) {
    return std::string(text);
  }
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string SuggestName(std::string_view name,
                        const std::vector<std::string>& known) {
  // Half of a short name and two letters of any are typing errors.
  const size_t distance_max = std::max<size_t>(2, name.size() / 3);
  std::string nearest;
  size_t nearest_distance = std::min(distance_max, name.size()) + 1;
  std::string list;
  for (const std::string& candidate : known) {
    const size_t distance =
        name.size() > 128 ? 128 : EditDistance(name, candidate);
    if (distance < nearest_distance && distance < candidate.size()) {
      nearest_distance = distance;
      nearest = candidate;
    }
    list += (list.empty() ? "" : ", ") + candidate;
  }
  return nearest.empty() ? StrCat("; there are: ", list)
                         : StrCat("; did you mean '", nearest, "'?");
}

std::string JoinOr(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) {
      out += i + 1 == names.size() ? " or " : ", ";
    }
    out += names[i];
  }
  return out;
}

}  // namespace shoal::worker
