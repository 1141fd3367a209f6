#include "worker/input/fitted.h"

#include <charconv>
#include <cmath>

#include "nlohmann/json.hpp"

#include "base/strcat.h"

namespace shoal::worker {
namespace {

constexpr size_t kKeyDigits = 16;

// Keys are hashes: 16 hexadecimal digits each, one after another, are the
// shortest text that JSON keeps exactly.
std::string KeysToText(const std::vector<uint64_t>& keys) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text(keys.size() * kKeyDigits, '0');
  size_t at = 0;
  for (const uint64_t key : keys) {
    for (int shift = 60; shift >= 0; shift -= 4) {
      text[at++] = kDigits[(key >> shift) & 15];
    }
  }
  return text;
}

bool KeysFromText(std::string_view text, std::vector<uint64_t>* keys) {
  if (text.size() % kKeyDigits != 0) {
    return false;
  }
  keys->reserve(text.size() / kKeyDigits);
  for (size_t at = 0; at < text.size(); at += kKeyDigits) {
    uint64_t key = 0;
    const char* end = text.data() + at + kKeyDigits;
    const auto [stop, error] = std::from_chars(text.data() + at, end, key, 16);
    const bool rising = keys->empty() || keys->back() < key;
    if (error != std::errc() || stop != end || !rising) {
      return false;
    }
    keys->push_back(key);
  }
  return true;
}

Status ReadFeature(const nlohmann::json& json, FittedFeature* feature) {
  json.at("name").get_to(feature->name);
  json.at("mean").get_to(feature->mean);
  json.at("deviation").get_to(feature->deviation);
  json.at("edges").get_to(feature->edges);
  if (!std::isfinite(feature->mean) || !std::isfinite(feature->deviation) ||
      feature->deviation <= 0) {
    return InvalidArgumentError(
        StrCat("fitted transforms: feature '", feature->name,
               "': mean and deviation must be finite, deviation above 0"));
  }
  for (size_t i = 0; i < feature->edges.size(); ++i) {
    if (!std::isfinite(feature->edges[i]) ||
        (i > 0 && feature->edges[i - 1] >= feature->edges[i])) {
      return InvalidArgumentError(StrCat("fitted transforms: feature '",
                                         feature->name,
                                         "': edges must be finite and rise"));
    }
  }
  const auto vocabulary = json.find("vocabulary");
  if (vocabulary != json.end()) {
    feature->has_vocabulary = true;
    if (!KeysFromText(vocabulary->get_ref<const std::string&>(),
                      &feature->vocabulary)) {
      return InvalidArgumentError(
          StrCat("fitted transforms: feature '", feature->name,
                 "': the vocabulary must be rising keys of 16 digits"));
    }
  }
  return OkStatus();
}

}  // namespace

const FittedFeature* FittedTransforms::Find(std::string_view name) const {
  for (const FittedFeature& feature : features) {
    if (feature.name == name) {
      return &feature;
    }
  }
  return nullptr;
}

std::string FittedToJson(const FittedTransforms& fitted) {
  nlohmann::json features = nlohmann::json::array();
  for (const FittedFeature& feature : fitted.features) {
    nlohmann::json json = {{"name", feature.name},
                           {"mean", feature.mean},
                           {"deviation", feature.deviation},
                           {"edges", feature.edges}};
    if (feature.has_vocabulary) {
      json["vocabulary"] = KeysToText(feature.vocabulary);
    }
    features.push_back(std::move(json));
  }
  const nlohmann::json json = {{"version", 1},
                               {"num_fields", fitted.num_fields},
                               {"features", std::move(features)}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

StatusOr<FittedTransforms> FittedFromJson(std::string_view text) {
  FittedTransforms fitted;
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    if (json.at("version").get<int64_t>() != 1) {
      return InvalidArgumentError(
          "fitted transforms: only version 1 is known; they were written by a "
          "newer program");
    }
    json.at("num_fields").get_to(fitted.num_fields);
    for (const nlohmann::json& entry : json.at("features")) {
      SHOAL_RETURN_IF_ERROR(
          ReadFeature(entry, &fitted.features.emplace_back()));
    }
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgumentError(StrCat("fitted transforms: ", error.what()));
  }
  return fitted;
}

}  // namespace shoal::worker
