#include "worker/yaml_document.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <map>
#include <sstream>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

constexpr size_t kLevelsMax = 64;
constexpr int64_t kValuesMax = 100'000;

// Builds the tree from yaml-cpp's events. Being called back by it, it reports
// errors as it does: by ParserException, which does not leave ParseYaml().
class TreeBuilder : public YAML::EventHandler {
 public:
  bool has_document() const { return has_document_; }
  YamlNode TakeRoot() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    Require(!has_document_, mark,
            "a second document begins; a job file holds one");
    has_document_ = true;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Open(YamlNode::Kind::kNull, mark, "", anchor);
    Close();
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag,
                YAML::anchor_t anchor, const std::string& value) override {
    // "?" is yaml-cpp's tag of plain text, "!" that of quoted text.
    Open(YamlNode::Kind::kScalar, mark, tag, anchor);
    open_.back().node.text = value;
    open_.back().node.quoted = tag == "!";
    Close();
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag,
                       YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    Open(YamlNode::Kind::kList, mark, tag, anchor);
  }
  void OnSequenceEnd() override { Close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag,
                  YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    Open(YamlNode::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { Close(); }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto it = anchored_.find(anchor);
    Require(it != anchored_.end(), mark, "an alias lies inside its own anchor");
    values_ += it->second.values;
    Require(values_ <= kValuesMax, mark,
            StrCat("aliases expand to more than ", kValuesMax, " values"));
    Attach(it->second.node, mark);
  }

 private:
  struct OpenNode {
    YamlNode node;
    YAML::Mark mark;
    YAML::anchor_t anchor = 0;
    int64_t values_before = 0;
    bool has_key = false;  // of a map: `key` waits for its value
    YamlNode key;
  };
  struct Anchored {
    YamlNode node;
    int64_t values = 0;
  };

  static void Require(bool condition, const YAML::Mark& mark,
                      const std::string& otherwise) {
    if (!condition) {
      throw YAML::ParserException(mark, otherwise);
    }
  }

  void Open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    Require(tag.empty() || tag == "?" || tag == "!", mark,
            StrCat("tags such as '", tag, "' are not supported"));
    Require(open_.size() < kLevelsMax, mark,
            StrCat("more than ", kLevelsMax, " levels"));
    OpenNode open;
    open.node.kind = kind;
    open.node.line = mark.line + 1;
    open.mark = mark;
    open.anchor = anchor;
    open.values_before = values_;
    open_.push_back(std::move(open));
    Require(++values_ <= kValuesMax, mark,
            StrCat("more than ", kValuesMax, " values"));
  }

  void Close() {
    OpenNode closed = std::move(open_.back());
    open_.pop_back();
    if (closed.anchor != 0) {
      anchored_[closed.anchor] = {closed.node, values_ - closed.values_before};
    }
    Attach(std::move(closed.node), closed.mark);
  }

  void Attach(YamlNode node, const YAML::Mark& mark) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    OpenNode& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::kList) {
      parent.node.items.push_back(std::move(node));
    } else if (parent.has_key) {
      parent.node.entries.emplace_back(std::move(parent.key), std::move(node));
      parent.has_key = false;
    } else {
      CheckKey(parent.node, node, mark);
      parent.key = std::move(node);
      parent.has_key = true;
    }
  }

  static void CheckKey(const YamlNode& map, const YamlNode& key,
                       const YAML::Mark& mark) {
    Require(key.kind == YamlNode::Kind::kScalar, mark,
            "a key must be a plain word; put it in quotes if it is text");
    for (const auto& [other, value] : map.entries) {
      Require(other.text != key.text, mark,
              StrCat("key '", key.text, "' is given twice, first on line ",
                     other.line));
    }
  }

  bool has_document_ = false;
  YamlNode root_;
  std::vector<OpenNode> open_;
  std::map<YAML::anchor_t, Anchored> anchored_;
  int64_t values_ = 0;
};

}  // namespace

StatusOr<YamlNode> ParseYaml(std::string_view text, int* error_line) {
  *error_line = 1;
  try {
    std::istringstream in{std::string(text)};
    YAML::Parser parser(in);
    TreeBuilder builder;
    while (parser.HandleNextDocument(builder)) {
    }
    YamlNode root = builder.TakeRoot();
    if (!builder.has_document() || root.kind == YamlNode::Kind::kNull) {
      root = YamlNode();
      root.kind = YamlNode::Kind::kMap;
      root.line = 1;
    }
    return root;
  } catch (const YAML::Exception& e) {
    *error_line = std::max(e.mark.line, 0) + 1;
    return InvalidArgumentError(e.msg);
  } catch (const std::exception& e) {
    return InvalidArgumentError(e.what());
  }
}

}  // namespace shoal::worker
