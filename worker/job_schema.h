#ifndef SHOAL_WORKER_JOB_SCHEMA_H_
#define SHOAL_WORKER_JOB_SCHEMA_H_

#include <string>
#include <string_view>
#include <vector>

namespace google::protobuf {
class Descriptor;
class FieldDescriptor;
class Message;
}  // namespace google::protobuf

namespace shoal::worker {

// What the options in job.proto say about a key. Inside worker/ only.

// "whole number", "number", "true or false", "text", "map"; "list of ..." for
// repeated ones.
std::string TypeText(const google::protobuf::FieldDescriptor& field);
std::string ElementTypeText(const google::protobuf::FieldDescriptor& field);

// "1 to 1024", "0 or more", "sync, bounded or async"; empty for any.
std::string AllowedText(const google::protobuf::FieldDescriptor& field);

// The allowed values of a text, and keys of a map; empty for any.
std::vector<std::string> AllowedValues(
    const google::protobuf::FieldDescriptor& field);
std::vector<std::string> AllowedKeys(
    const google::protobuf::FieldDescriptor& field);

// The values of `kind` beside the key that read it; empty: all.
std::vector<std::string> ReadBy(const google::protobuf::FieldDescriptor& field);

// Whether a key that is given in `message` says what would be so without it.
bool SaysTheDefault(const google::protobuf::Message& message,
                    const google::protobuf::FieldDescriptor& field);

std::string HelpText(const google::protobuf::FieldDescriptor& field);

// The default as YAML; empty when there is none.
std::string DefaultText(const google::protobuf::FieldDescriptor& field);

// As YAML writes them: the shortest that reads back as the same value, and
// quoted where it would read as something else.
std::string YamlNumber(double value);
std::string YamlText(std::string_view text);

// "; did you mean 'workers'?" or "; there are: a, b": what to do about a name
// that is none of `known`.
std::string SuggestName(std::string_view name,
                        const std::vector<std::string>& known);

// "a", "a or b", "a, b or c".
std::string JoinOr(const std::vector<std::string>& names);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_JOB_SCHEMA_H_
