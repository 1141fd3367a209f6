#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "base/strcat.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/job_schema.h"

namespace shoal::worker {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kLineWidth = 80;
constexpr size_t kIndentStep = 2;

// Appends `text`, broken at blanks, each line indented.
void AppendWrapped(std::string_view text, size_t indent, std::string* out) {
  const std::string margin(indent, ' ');
  size_t column = 0;
  while (!text.empty()) {
    const size_t blank = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, blank);
    text.remove_prefix(std::min(blank + 1, text.size()));
    if (word.empty()) {
      continue;
    }
    if (column != 0 && column + 1 + word.size() > kLineWidth) {
      *out += '\n';
      column = 0;
    }
    *out += column == 0 ? margin : " ";
    *out += word;
    column = (column == 0 ? indent : column + 1) + word.size();
  }
  *out += '\n';
}

// "whole number, 1 to 1024; default 1".
std::string FormText(const FieldDescriptor& field) {
  std::string text = AllowedText(field);
  if (AllowedValues(field).empty()) {
    text = TypeText(field) + (text.empty() ? "" : ", ") + text;
  }
  if (const std::string value = DefaultText(field); !value.empty()) {
    text += "; default " + value;
  }
  if (const std::vector<std::string> kinds = ReadBy(field); !kinds.empty()) {
    text += "; for " + JoinOr(kinds);
  }
  return text;
}

void ExplainMessage(const Descriptor& type, size_t indent, std::string* out);

void ExplainField(const FieldDescriptor& field, size_t indent,
                  std::string* out) {
  const std::string margin(indent, ' ');
  const size_t help_indent = indent + 2 * kIndentStep;
  if (field.is_map()) {
    const FieldDescriptor& value = *field.message_type()->map_value();
    const std::vector<std::string> keys = AllowedKeys(field);
    *out += StrCat(margin, field.name(), ": (map)\n");
    AppendWrapped(HelpText(field), help_indent, out);
    if (value.message_type() != nullptr) {
      *out += StrCat(margin, "  ", keys.empty() ? "NAME" : JoinOr(keys), ":\n");
      ExplainMessage(*value.message_type(), indent + 2 * kIndentStep, out);
    }
    return;
  }
  if (field.message_type() != nullptr) {
    *out += StrCat(margin, field.name(), ":",
                   field.is_repeated() ? " (list of maps)" : "", "\n");
    AppendWrapped(HelpText(field), help_indent, out);
    ExplainMessage(*field.message_type(), indent + kIndentStep, out);
    return;
  }
  AppendWrapped(StrCat(field.name(), ": (", FormText(field), ")"), indent, out);
  AppendWrapped(HelpText(field), help_indent, out);
}

void ExplainMessage(const Descriptor& type, size_t indent, std::string* out) {
  for (int i = 0; i < type.field_count(); ++i) {
    if (indent == 0 && i > 0 && type.field(i)->message_type() != nullptr) {
      *out += '\n';  // between the sections
    }
    ExplainField(*type.field(i), indent, out);
  }
}

// One scalar: that of a field, or element `index` of a repeated one.
std::string ScalarText(const Message& message, const FieldDescriptor& field,
                       int index) {
  const Reflection& get = *message.GetReflection();
  const bool repeated = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return StrCat(repeated ? get.GetRepeatedInt32(message, &field, index)
                             : get.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return StrCat(repeated ? get.GetRepeatedInt64(message, &field, index)
                             : get.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return StrCat(repeated ? get.GetRepeatedUInt64(message, &field, index)
                             : get.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return YamlNumber(repeated ? get.GetRepeatedDouble(message, &field, index)
                                 : get.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return (repeated ? get.GetRepeatedBool(message, &field, index)
                       : get.GetBool(message, &field))
                 ? "true"
                 : "false";
    case FieldDescriptor::CPPTYPE_STRING:
      return YamlText(repeated ? get.GetRepeatedString(message, &field, index)
                               : get.GetString(message, &field));
    default:
      return "";
  }
}

// Writes messages as YAML. With `defaults`, keys that are not given are written
// where that does not change what the job means: not inside lists and maps,
// where it matters which keys are there.
class YamlWriter {
 public:
  std::string Write(const Message& message) {
    WriteMessage(message, "", true);
    return std::move(out_);
  }

 private:
  void WriteMessage(const Message& message, const std::string& margin,
                    bool defaults) {
    const Descriptor& type = *message.GetDescriptor();
    for (int i = 0; i < type.field_count(); ++i) {
      WriteField(message, *type.field(i), margin, defaults);
    }
  }

  void WriteField(const Message& message, const FieldDescriptor& field,
                  const std::string& margin, bool defaults) {
    const Reflection& get = *message.GetReflection();
    const std::string name = margin + field.name() + ":";
    if (field.is_repeated()) {
      if (get.FieldSize(message, &field) > 0) {
        out_ += name;
        field.is_map() ? WriteMap(message, field, margin + "  ")
                       : WriteList(message, field, margin + "  ");
      }
      return;
    }
    const bool given = get.HasField(message, &field);
    if (field.message_type() != nullptr) {
      if (given || defaults) {
        WriteNested(name, get.GetMessage(message, &field), margin, defaults);
      }
      return;
    }
    if (given || (defaults && field.has_default_value())) {
      out_ += StrCat(name, " ", ScalarText(message, field, -1), "\n");
    }
  }

  // A map without keys is `{}`, or else the name would stand for nothing.
  void WriteNested(const std::string& name, const Message& message,
                   const std::string& margin, bool defaults) {
    const size_t begin = out_.size();
    WriteMessage(message, margin + "  ", defaults);
    const bool empty = out_.size() == begin;
    out_.insert(begin, StrCat(name, empty ? " {}" : "", "\n"));
  }

  void WriteList(const Message& message, const FieldDescriptor& field,
                 const std::string& margin) {
    const Reflection& get = *message.GetReflection();
    const int size = get.FieldSize(message, &field);
    if (field.message_type() == nullptr) {
      out_ += " [";
      for (int i = 0; i < size; ++i) {
        out_ += (i == 0 ? "" : ", ") + ScalarText(message, field, i);
      }
      out_ += "]\n";
      return;
    }
    out_ += '\n';
    for (int i = 0; i < size; ++i) {
      const size_t begin = out_.size();
      WriteMessage(get.GetRepeatedMessage(message, &field, i), margin + "  ",
                   false);
      if (out_.size() == begin) {
        out_ += margin + "- {}\n";
      } else {
        out_[begin + margin.size()] = '-';
      }
    }
  }

  void WriteMap(const Message& message, const FieldDescriptor& field,
                const std::string& margin) {
    const FieldDescriptor& map_key = *field.message_type()->map_key();
    const FieldDescriptor& map_value = *field.message_type()->map_value();
    out_ += '\n';
    for (const Message* entry : SortedEntries(message, field)) {
      const Reflection& get = *entry->GetReflection();
      const std::string name =
          margin + YamlText(get.GetString(*entry, &map_key)) + ":";
      if (map_value.message_type() != nullptr) {
        WriteNested(name, get.GetMessage(*entry, &map_value), margin, false);
      } else {
        out_ += StrCat(name, " ", ScalarText(*entry, map_value, -1), "\n");
      }
    }
  }

  static std::vector<const Message*> SortedEntries(
      const Message& message, const FieldDescriptor& field) {
    const Reflection& get = *message.GetReflection();
    const FieldDescriptor& map_key = *field.message_type()->map_key();
    std::vector<const Message*> entries;
    for (int i = 0; i < get.FieldSize(message, &field); ++i) {
      entries.push_back(&get.GetRepeatedMessage(message, &field, i));
    }
    std::sort(entries.begin(), entries.end(),
              [&](const Message* a, const Message* b) {
                return a->GetReflection()->GetString(*a, &map_key) <
                       b->GetReflection()->GetString(*b, &map_key);
              });
    return entries;
  }

  std::string out_;
};

}  // namespace

std::string JobToYaml(const JobSpec& job) { return YamlWriter().Write(job); }

std::string ExplainJob() {
  std::string out;
  ExplainMessage(*JobSpec::descriptor(), 0, &out);
  return out;
}

}  // namespace shoal::worker
