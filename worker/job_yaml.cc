#include "worker/job_yaml.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "base/strcat.h"
#include "worker/job.pb.h"
#include "worker/job_schema.h"
#include "worker/yaml_document.h"

namespace shoal::worker {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

std::string JoinKey(const std::string& parent, std::string_view name) {
  return parent.empty() ? std::string(name) : StrCat(parent, ".", name);
}

std::pair<std::string_view, std::string_view> SplitAtDot(
    std::string_view path) {
  const size_t dot = path.find('.');
  return dot == std::string_view::npos
             ? std::pair{path, std::string_view()}
             : std::pair{path.substr(0, dot), path.substr(dot + 1)};
}

std::vector<std::string> FieldNames(const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) {
    names.push_back(type.field(i)->name());
  }
  return names;
}

// The key of a field called `name` in another part of the schema; empty if
// there is none.
std::string FindElsewhere(const Descriptor& type, std::string_view name,
                          const std::string& prefix) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.name() == name) {
      return JoinKey(prefix, name);
    }
  }
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.message_type() != nullptr && !field.is_repeated()) {
      std::string found = FindElsewhere(*field.message_type(), name,
                                        JoinKey(prefix, field.name()));
      if (!found.empty()) {
        return found;
      }
    }
  }
  return "";
}

std::string UnknownKeyText(const Descriptor& type, const std::string& parent,
                           std::string_view name) {
  std::string hint = SuggestName(name, FieldNames(type));
  const std::string elsewhere = FindElsewhere(*JobSpec::descriptor(), name, "");
  if (!elsewhere.empty() && hint.find("did you mean") == std::string::npos) {
    hint = elsewhere == name
               ? StrCat("; '", elsewhere, "' belongs at the top level")
               : StrCat("; did you mean '", elsewhere, "'?");
  }
  const std::string where = parent.empty() ? "" : StrCat(" under ", parent);
  return StrCat("unknown key '", name.substr(0, 100), "'", where, hint);
}

std::string FoundText(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kList:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a map";
    case YamlNode::Kind::kScalar:
      break;
  }
  const std::string text =
      node.text.size() > 60 ? node.text.substr(0, 60) + "..." : node.text;
  return StrCat("'", text, "'", node.quoted ? " in quotes" : "");
}

enum class Parsed { kOk, kWrongType, kOutOfRange };

template <typename Int>
Parsed ParseWhole(const YamlNode& node, Int* value) {
  std::string_view text = node.text;
  if (text.starts_with('+')) {
    text.remove_prefix(1);
  }
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), *value);
  if (node.quoted || end != text.data() + text.size()) {
    const bool negative = std::numeric_limits<Int>::min() == 0 &&
                          text.starts_with('-') && text.size() > 1;
    return negative && !node.quoted ? Parsed::kOutOfRange : Parsed::kWrongType;
  }
  if (error == std::errc::result_out_of_range) {
    return Parsed::kOutOfRange;
  }
  return error == std::errc() ? Parsed::kOk : Parsed::kWrongType;
}

Parsed ParseReal(const YamlNode& node, double* value) {
  std::string_view text = node.text;
  if (text.starts_with('+')) {
    text.remove_prefix(1);
  }
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), *value);
  if (node.quoted || end != text.data() + text.size() ||
      error == std::errc::invalid_argument) {
    return Parsed::kWrongType;
  }
  return error == std::errc() && std::isfinite(*value) ? Parsed::kOk
                                                       : Parsed::kOutOfRange;
}

Parsed ParseBool(const YamlNode& node, bool* value) {
  const std::string& text = node.text;
  const bool is_true = text == "true" || text == "True" || text == "TRUE";
  const bool is_false = text == "false" || text == "False" || text == "FALSE";
  *value = is_true;
  return (is_true || is_false) && !node.quoted ? Parsed::kOk
                                               : Parsed::kWrongType;
}

// Sets a field, or adds to a repeated one.
Parsed StoreScalar(const YamlNode& node, const FieldDescriptor& field,
                   Message& message) {
  const Reflection& reflection = *message.GetReflection();
  const auto store = [&](Parsed parsed, auto value, auto set, auto add) {
    if (parsed == Parsed::kOk) {
      (reflection.*(field.is_repeated() ? add : set))(&message, &field, value);
    }
    return parsed;
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      const Parsed parsed = ParseWhole(node, &value);
      return store(parsed, value, &Reflection::SetInt32, &Reflection::AddInt32);
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value = 0;
      const Parsed parsed = ParseWhole(node, &value);
      return store(parsed, value, &Reflection::SetInt64, &Reflection::AddInt64);
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value = 0;
      const Parsed parsed = ParseWhole(node, &value);
      return store(parsed, value, &Reflection::SetUInt64,
                   &Reflection::AddUInt64);
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      const Parsed parsed = ParseReal(node, &value);
      return store(parsed, value, &Reflection::SetDouble,
                   &Reflection::AddDouble);
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool value = false;
      const Parsed parsed = ParseBool(node, &value);
      return store(parsed, value, &Reflection::SetBool, &Reflection::AddBool);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return store(Parsed::kOk, node.text, &Reflection::SetString,
                   &Reflection::AddString);
    default:
      return Parsed::kWrongType;
  }
}

// Reads values of one source (a file, or one --set) into a message.
class MessageReader {
 public:
  // `file` is empty for a --set, which `where` then describes.
  MessageReader(const std::string& file, const std::string& where,
                JobLocations& locations)
      : file_(file), where_(where), locations_(locations) {}

  std::string Where(int line) const {
    return file_.empty() ? where_ : StrCat(file_, ":", line);
  }

  Status Error(int line, std::string_view text) const {
    return InvalidArgumentError(StrCat(Where(line), ": ", text));
  }

  Status ReadMessage(const YamlNode& node, const std::string& key,
                     Message& message) {
    if (node.kind != YamlNode::Kind::kMap) {
      const std::string what = key.empty() ? "a job" : key;
      return Error(node.line,
                   StrCat(what, ": expected a map of keys (",
                          JoinOr(FieldNames(*message.GetDescriptor())),
                          "), found ", FoundText(node)));
    }
    for (const auto& [name, value] : node.entries) {
      const FieldDescriptor* field =
          message.GetDescriptor()->FindFieldByName(name.text);
      if (field == nullptr) {
        return Error(name.line,
                     UnknownKeyText(*message.GetDescriptor(), key, name.text));
      }
      SHOAL_RETURN_IF_ERROR(ReadField(value, name.line, JoinKey(key, name.text),
                                      *field, message));
    }
    return OkStatus();
  }

  // `line` is that of the key.
  Status ReadField(const YamlNode& node, int line, const std::string& key,
                   const FieldDescriptor& field, Message& message) {
    if (node.kind == YamlNode::Kind::kNull) {
      return Error(line, StrCat(key, ": expected ", ExpectedText(field),
                                ", found nothing; give a value, or leave the "
                                "key out for the default"));
    }
    if (field.is_map()) {
      locations_.Set(key, Where(line));
      return ReadMap(node, key, field, message);
    }
    if (field.is_repeated()) {
      message.GetReflection()->ClearField(&message, &field);
      locations_.Erase(key);
      locations_.Set(key, Where(line));
      return ReadList(node, key, field, message);
    }
    locations_.Set(key, Where(line));
    if (field.message_type() != nullptr) {
      return ReadMessage(
          node, key,
          *message.GetReflection()->MutableMessage(&message, &field));
    }
    return ReadScalar(node, key, field, message);
  }

  // The value of `name` in the map field `field`.
  Status ReadMapValue(const YamlNode& node, const YamlNode& name,
                      const std::string& parent, const FieldDescriptor& field,
                      Message& message) {
    const std::vector<std::string> allowed = AllowedKeys(field);
    if (!allowed.empty() &&
        std::find(allowed.begin(), allowed.end(), name.text) == allowed.end()) {
      return Error(name.line, StrCat("unknown key '", name.text, "' under ",
                                     parent, SuggestName(name.text, allowed)));
    }
    const std::string key = JoinKey(parent, name.text);
    Message& entry = FindOrAddEntry(field, name.text, message);
    return ReadField(node, name.line, key, *field.message_type()->map_value(),
                     entry);
  }

  // Reads `node` into the key that the dotted `path` leads to from `message`,
  // whose own key is `parent`.
  Status ReadAtPath(const YamlNode& node, std::string_view path,
                    const std::string& parent, Message& message) {
    const auto [name, rest] = SplitAtDot(path);
    const FieldDescriptor* field =
        message.GetDescriptor()->FindFieldByName(std::string(name));
    if (field == nullptr) {
      return Error(1, UnknownKeyText(*message.GetDescriptor(), parent, name));
    }
    const std::string key = JoinKey(parent, name);
    if (rest.empty()) {
      return ReadField(node, 1, key, *field, message);
    }
    if (field->is_map()) {
      return ReadInMap(node, rest, key, *field, message);
    }
    if (field->message_type() == nullptr) {
      return Error(1, StrCat(key, ": expected ", ExpectedText(*field),
                             "; it has no key '", rest, "' under it"));
    }
    if (field->is_repeated()) {
      return ReadInList(node, rest, key, *field, message);
    }
    return ReadAtPath(
        node, rest, key,
        *message.GetReflection()->MutableMessage(&message, field));
  }

 private:
  static std::string ExpectedText(const FieldDescriptor& field) {
    const std::string type = TypeText(field);
    return type == "true or false" || type == "text" ? type
                                                     : StrCat("a ", type);
  }

  Status ReadMap(const YamlNode& node, const std::string& key,
                 const FieldDescriptor& field, Message& message) {
    if (node.kind != YamlNode::Kind::kMap) {
      return Error(node.line,
                   StrCat(key, ": expected a map, found ", FoundText(node)));
    }
    for (const auto& [name, value] : node.entries) {
      SHOAL_RETURN_IF_ERROR(ReadMapValue(value, name, key, field, message));
    }
    return OkStatus();
  }

  Status ReadInMap(const YamlNode& node, std::string_view path,
                   const std::string& parent, const FieldDescriptor& field,
                   Message& message) {
    const FieldDescriptor& map_value = *field.message_type()->map_value();
    const auto [name, rest] = SplitAtDot(path);
    YamlNode key;
    key.kind = YamlNode::Kind::kScalar;
    key.line = 1;
    if (map_value.message_type() == nullptr || rest.empty()) {
      key.text = std::string(path);  // keys of texts may hold dots
      return ReadMapValue(node, key, parent, field, message);
    }
    // The entry is made by an empty map; then the way goes on inside.
    key.text = std::string(name);
    YamlNode empty;
    empty.kind = YamlNode::Kind::kMap;
    SHOAL_RETURN_IF_ERROR(ReadMapValue(empty, key, parent, field, message));
    Message& entry = FindOrAddEntry(field, key.text, message);
    return ReadAtPath(
        node, rest, JoinKey(parent, name),
        *entry.GetReflection()->MutableMessage(&entry, &map_value));
  }

  Status ReadInList(const YamlNode& node, std::string_view path,
                    const std::string& parent, const FieldDescriptor& field,
                    Message& message) {
    const Reflection& reflection = *message.GetReflection();
    const auto [number, rest] = SplitAtDot(path);
    const int size = reflection.FieldSize(message, &field);
    int index = -1;
    const char* const number_end = number.data() + number.size();
    const auto [end, error] = std::from_chars(number.data(), number_end, index);
    if (error != std::errc() || end != number_end || index < 0 ||
        index >= size) {
      return Error(1, StrCat("'", number, "' is no element of ", parent,
                             "; it holds ", size, ", counted from 0"));
    }
    Message& element =
        *reflection.MutableRepeatedMessage(&message, &field, index);
    const std::string key = JoinKey(parent, number);
    if (rest.empty()) {
      locations_.Set(key, Where(1));
      return ReadMessage(node, key, element);
    }
    return ReadAtPath(node, rest, key, element);
  }

  static Message& FindOrAddEntry(const FieldDescriptor& field,
                                 const std::string& name, Message& message) {
    const Reflection& reflection = *message.GetReflection();
    const FieldDescriptor* const map_key = field.message_type()->map_key();
    for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
      Message* const entry =
          reflection.MutableRepeatedMessage(&message, &field, i);
      if (entry->GetReflection()->GetString(*entry, map_key) == name) {
        return *entry;
      }
    }
    Message* const entry = reflection.AddMessage(&message, &field);
    entry->GetReflection()->SetString(entry, map_key, name);
    return *entry;
  }

  Status ReadList(const YamlNode& node, const std::string& key,
                  const FieldDescriptor& field, Message& message) {
    if (node.kind != YamlNode::Kind::kList) {  // one value is a list of one
      return ReadElement(node, JoinKey(key, "0"), key, field, message);
    }
    for (size_t i = 0; i < node.items.size(); ++i) {
      SHOAL_RETURN_IF_ERROR(ReadElement(node.items[i], JoinKey(key, StrCat(i)),
                                        key, field, message));
    }
    return OkStatus();
  }

  Status ReadElement(const YamlNode& node, const std::string& key,
                     const std::string& list_key, const FieldDescriptor& field,
                     Message& message) {
    locations_.Set(key, Where(node.line));
    if (field.message_type() != nullptr) {
      return ReadMessage(
          node, key, *message.GetReflection()->AddMessage(&message, &field));
    }
    if (node.kind != YamlNode::Kind::kScalar) {
      return WrongType(node, list_key, field);
    }
    return ReadScalar(node, key, field, message);
  }

  Status WrongType(const YamlNode& node, const std::string& key,
                   const FieldDescriptor& field) const {
    std::string hint;
    if (node.quoted) {
      hint = "; leave the quotes out";
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      hint = "; if text is meant, put it in quotes";
    }
    return Error(node.line, StrCat(key, ": expected ", ExpectedText(field),
                                   ", found ", FoundText(node), hint));
  }

  Status OutOfRange(const YamlNode& node, const std::string& key,
                    const FieldDescriptor& field) const {
    const std::string allowed = AllowedText(field);
    return Error(node.line,
                 StrCat(key, ": ", FoundText(node), " is out of range",
                        allowed.empty() ? "" : "; allowed: ", allowed));
  }

  Status ReadScalar(const YamlNode& node, const std::string& key,
                    const FieldDescriptor& field, Message& message) {
    if (node.kind != YamlNode::Kind::kScalar) {
      return WrongType(node, key, field);
    }
    switch (StoreScalar(node, field, message)) {
      case Parsed::kOk:
        return OkStatus();
      case Parsed::kOutOfRange:
        return OutOfRange(node, key, field);
      case Parsed::kWrongType:
        break;
    }
    return WrongType(node, key, field);
  }

  std::string file_;
  std::string where_;
  JobLocations& locations_;
};

// The line of the first byte that is not UTF-8; 0 if there is none. What is
// written elsewhere (JSON, HTML) must be.
int FindBadUtf8(std::string_view text) {
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const size_t length = first < 0x80                     ? 1
                          : first >= 0xc2 && first <= 0xdf ? 2
                          : first >= 0xe0 && first <= 0xef ? 3
                          : first >= 0xf0 && first <= 0xf4 ? 4
                                                           : 0;
    if (length == 0 || i + length > text.size()) {
      return line;
    }
    uint32_t point = length == 1 ? first : first & (0x7fU >> length);
    for (size_t j = 1; j < length; ++j) {
      const auto next = static_cast<unsigned char>(text[i + j]);
      if ((next & 0xc0) != 0x80) {
        return line;
      }
      point = point << 6 | (next & 0x3f);
    }
    const bool overlong =
        (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
    if (overlong || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
      return line;
    }
    line += first == '\n' ? 1 : 0;
    i += length;
  }
  return 0;
}

Status ReadDocument(std::string_view text, const MessageReader& reader,
                    YamlNode* root) {
  if (text.size() > kJobBytesMax) {
    return reader.Error(1, StrCat("it has more than ", kJobBytesMax,
                                  " bytes; is it a job file?"));
  }
  if (const int line = FindBadUtf8(text); line > 0) {
    return reader.Error(line, "a byte is not UTF-8; save the file as UTF-8");
  }
  int error_line = 0;
  StatusOr<YamlNode> parsed = ParseYaml(text, &error_line);
  if (!parsed.ok()) {
    return reader.Error(error_line,
                        StrCat("not valid YAML: ", parsed.status().message()));
  }
  *root = *std::move(parsed);
  return OkStatus();
}

}  // namespace

void JobLocations::Set(const std::string& key, const std::string& where) {
  where_[key] = where;
}

void JobLocations::Erase(const std::string& key) {
  where_.erase(key);
  const std::string prefix = key + ".";
  auto it = where_.lower_bound(prefix);
  while (it != where_.end() && it->first.starts_with(prefix)) {
    it = where_.erase(it);
  }
}

std::string JobLocations::Find(std::string key) const {
  while (true) {
    if (const auto it = where_.find(key); it != where_.end()) {
      return it->second;
    }
    const size_t dot = key.rfind('.');
    if (dot == std::string::npos) {
      return "";
    }
    key.resize(dot);
  }
}

Status ReadJobYaml(std::string_view text, const std::string& file, JobSpec& job,
                   JobLocations& locations) {
  MessageReader reader(file, "", locations);
  YamlNode root;
  SHOAL_RETURN_IF_ERROR(ReadDocument(text, reader, &root));
  return reader.ReadMessage(root, "", job);
}

Status ReadJobOverride(const std::string& override_text, JobSpec& job,
                       JobLocations& locations) {
  const std::string shown = override_text.size() > 200
                                ? override_text.substr(0, 200) + "..."
                                : override_text;
  MessageReader reader("", StrCat("--set ", shown), locations);
  const size_t equals = override_text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return reader.Error(1, "expected KEY=VALUE, such as seed=2");
  }
  const std::string path = override_text.substr(0, equals);
  const std::string value = override_text.substr(equals + 1);
  if (const size_t stop = path.find_first_of(" \t\n"); stop != path.npos) {
    return reader.Error(1, "the key has a blank in it");
  }
  YamlNode root;
  SHOAL_RETURN_IF_ERROR(ReadDocument(value, reader, &root));
  if (root.kind == YamlNode::Kind::kMap && root.entries.empty() &&
      value.find('{') == std::string::npos) {
    root.kind = YamlNode::Kind::kNull;  // no value at all
  }
  return reader.ReadAtPath(root, path, "", job);
}

}  // namespace shoal::worker
