#include "base/s3/names.h"

#include <algorithm>
#include <cctype>

#include <pugixml.hpp>

#include "base/strcat.h"

namespace shoal {
namespace {

constexpr std::string_view kScheme = "s3://";
constexpr size_t kMessageMax = 300;

// Locales have no say in names.
bool IsPlain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

// The tree of a whole answer whose first element is `root`.
StatusOr<pugi::xml_node> Load(pugi::xml_document& document,
                              std::string_view xml, const char* root) {
  const pugi::xml_parse_result parsed = document.load_buffer(
      xml.data(), xml.size(), pugi::parse_default, pugi::encoding_utf8);
  const pugi::xml_node node = document.document_element();
  if (!parsed || node.empty() || std::string_view(node.name()) != root) {
    return UnavailableError(StrCat(
        "the answer is no <", root, ">: ",
        parsed ? StrCat("it begins with <", node.name(), ">")
               : StrCat(parsed.description(), " at byte ", parsed.offset)));
  }
  return node;
}

}  // namespace

std::string S3Path::Text() const {
  return StrCat(kScheme, bucket, key.empty() ? "" : "/", key);
}

bool IsS3Path(std::string_view path) { return path.starts_with("s3:"); }

StatusOr<S3Path> ParseS3Path(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return InvalidArgumentError(
        StrCat("'", text, "': ", why, "; expected s3://BUCKET/PATH"));
  };
  if (!text.starts_with(kScheme)) {
    return bad("it does not begin with s3://");
  }
  S3Path path;
  std::string_view rest = text.substr(kScheme.size());
  path.bucket = rest.substr(0, rest.find('/'));
  rest.remove_prefix(path.bucket.size());
  if (path.bucket.size() < 3 || path.bucket.size() > 255 ||
      !std::all_of(path.bucket.begin(), path.bucket.end(), IsPlain) ||
      path.bucket.find_first_not_of('.') == std::string::npos) {
    return bad(path.bucket.empty() ? "it names no bucket"
                                   : "no bucket can have that name");
  }
  while (!rest.empty()) {
    rest.remove_prefix(1);  // the slash
    const std::string_view part = rest.substr(0, rest.find('/'));
    rest.remove_prefix(part.size());
    if (part == "..") {
      return bad("there is no '..' in a store");
    }
    if (!part.empty() && part != ".") {
      path.key += path.key.empty() ? "" : "/";
      path.key += part;
    }
  }
  if (path.key.size() > 1024) {
    return bad("a name has at most 1024 bytes");
  }
  return path;
}

std::string PercentEncoded(std::string_view text, bool keep_slashes) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    if (IsPlain(c) || c == '~' || (keep_slashes && c == '/')) {
      encoded += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      encoded += '%';
      encoded += kHex[byte >> 4];
      encoded += kHex[byte & 15];
    }
  }
  return encoded;
}

StatusOr<S3Listing> ParseS3Listing(std::string_view xml) {
  pugi::xml_document document;
  SHOAL_ASSIGN_OR_RETURN(const pugi::xml_node root,
                         Load(document, xml, "ListBucketResult"));
  S3Listing listing;
  for (const pugi::xml_node entry : root.children("Contents")) {
    listing.keys.emplace_back(entry.child_value("Key"));
  }
  for (const pugi::xml_node entry : root.children("CommonPrefixes")) {
    listing.prefixes.emplace_back(entry.child_value("Prefix"));
  }
  if (std::string_view(root.child_value("IsTruncated")) == "true") {
    listing.next = root.child_value("NextContinuationToken");
    if (listing.next.empty()) {
      return UnavailableError(
          "a list of files is cut off and does not say how it goes on");
    }
  }
  return listing;
}

StatusOr<std::string> ParseS3Answer(std::string_view xml, const char* root,
                                    const char* element) {
  pugi::xml_document document;
  SHOAL_ASSIGN_OR_RETURN(const pugi::xml_node node, Load(document, xml, root));
  std::string text = node.child_value(element);
  if (text.empty()) {
    return UnavailableError(StrCat("the answer <", root, "> has no ", element));
  }
  return text;
}

S3Refusal ParseS3Refusal(std::string_view xml) {
  pugi::xml_document document;
  const StatusOr<pugi::xml_node> root = Load(document, xml, "Error");
  if (!root.ok()) {
    return {};
  }
  S3Refusal refusal = {.code = root->child_value("Code"),
                       .message = root->child_value("Message")};
  for (std::string* text : {&refusal.code, &refusal.message}) {
    text->resize(std::min(text->size(), kMessageMax));
    for (char& c : *text) {
      c = static_cast<unsigned char>(c) < ' ' || c == '\x7f' ? ' ' : c;
    }
  }
  return refusal;
}

}  // namespace shoal
