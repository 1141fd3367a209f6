#include "launch/kubernetes/yaml_json.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include <nlohmann/json.hpp>
#include <yaml-cpp/yaml.h>

#include "base/strcat.h"

namespace shoal::launch {
namespace {

using nlohmann::json;

template <typename T>
bool ParsesAs(const std::string& text, T* value) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && at == end;
}

json PlainScalar(const std::string& text) {
  if (text.empty() || text == "~" || text == "null") {
    return nullptr;
  }
  if (text == "true" || text == "false") {
    return text == "true";
  }
  if (int64_t whole = 0; ParsesAs(text, &whole)) {
    return whole;
  }
  const bool like_number =
      text.find_first_not_of("+-.0123456789eE") == std::string::npos;
  if (double real = 0; like_number && ParsesAs(text, &real)) {
    return real;
  }
  return text;
}

// A file of people has neither; with aliases a short one can.
constexpr int kDepthMax = 200;
constexpr int kNodesMax = 1'000'000;

// `nodes` counts those of all documents.
json FromNode(const YAML::Node& node, int depth, int& nodes) {
  if (depth > kDepthMax || ++nodes > kNodesMax) {
    throw YAML::Exception(node.Mark(), depth > kDepthMax
                                           ? "is nested too deeply"
                                           : "grows too large by its aliases");
  }
  switch (node.Type()) {
    case YAML::NodeType::Scalar:
      // Quoted scalars and blocks have the tag "!".
      return node.Tag() == "!" ? json(node.Scalar())
                               : PlainScalar(node.Scalar());
    case YAML::NodeType::Sequence: {
      json list = json::array();
      for (const YAML::Node& item : node) {
        list.push_back(FromNode(item, depth + 1, nodes));
      }
      return list;
    }
    case YAML::NodeType::Map: {
      json map = json::object();
      for (const auto& entry : node) {
        map[entry.first.Scalar()] = FromNode(entry.second, depth + 1, nodes);
      }
      return map;
    }
    default:
      return nullptr;
  }
}

// Whether a text stays a text without quotes in YAML 1.1 and 1.2: letters first
// and no word that means something.
bool IsPlain(const std::string& text) {
  if (text.empty() || (std::isalpha(static_cast<unsigned char>(text[0])) == 0 &&
                       text[0] != '/')) {
    return false;
  }
  for (const char* word :
       {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}) {
    if (text.size() == std::char_traits<char>::length(word) &&
        std::equal(text.begin(), text.end(), word, [](char a, char b) {
          return std::tolower(static_cast<unsigned char>(a)) == b;
        })) {
      return false;
    }
  }
  return true;
}

void Emit(YAML::Emitter& out, const json& value) {
  switch (value.type()) {
    case json::value_t::object:
      if (value.empty()) {
        out << YAML::Flow;
      }
      out << YAML::BeginMap;
      for (const auto& [key, item] : value.items()) {
        out << YAML::Key << key << YAML::Value;
        Emit(out, item);
      }
      out << YAML::EndMap;
      return;
    case json::value_t::array:
      if (value.empty()) {
        out << YAML::Flow;
      }
      out << YAML::BeginSeq;
      for (const json& item : value) {
        Emit(out, item);
      }
      out << YAML::EndSeq;
      return;
    case json::value_t::string: {
      const auto& text = value.get_ref<const std::string&>();
      if (text.find('\n') != std::string::npos && text.back() == '\n' &&
          !text.ends_with("\n\n") && text.front() != ' ' &&
          text.front() != '\n' && text.find('\t') == std::string::npos &&
          text.find('\r') == std::string::npos) {
        out << YAML::Literal << text;
      } else if (IsPlain(text)) {
        out << text;
      } else {
        out << YAML::DoubleQuoted << text;
      }
      return;
    }
    case json::value_t::null:
      out << YAML::Null;
      return;
    default:
      out << value.dump();
  }
}

// Whether a line is one that begins a document.
bool IsMarker(std::string_view line) {
  return line.starts_with("---") &&
         (line.size() == 3 ||
          std::isspace(static_cast<unsigned char>(line[3])));
}

}  // namespace

StatusOr<std::vector<json>> ParseYaml(std::string_view text,
                                      const std::string& file) {
  std::vector<json> documents;
  int nodes = 0;
  int first_line = 0;
  // One document after the other: yaml-cpp's LoadAll() never ends on some texts
  // that are none.
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin + 1;
    while (end < text.size() &&
           !(text[end - 1] == '\n' && IsMarker(text.substr(end)))) {
      ++end;
    }
    const std::string_view document = text.substr(begin, end - begin);
    try {
      if (json value = FromNode(YAML::Load(std::string(document)), 0, nodes);
          !value.is_null()) {
        documents.push_back(std::move(value));
      }
    } catch (const YAML::Exception& e) {
      return InvalidArgumentError(
          StrCat(file, ":", first_line + e.mark.line + 1, ": ", e.msg));
    }
    first_line +=
        static_cast<int>(std::count(document.begin(), document.end(), '\n'));
    begin = end;
  }
  return documents;
}

std::string ToYaml(const json& json) {
  YAML::Emitter out;
  Emit(out, json);
  std::string text = out.c_str();
  // A block of lines at the end has one already.
  return text.ends_with('\n') ? text : text + "\n";
}

}  // namespace shoal::launch
