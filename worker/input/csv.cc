#include "worker/input/csv.h"

#include <algorithm>
#include <cstring>

namespace shoal::worker {
namespace {

bool IsBlankFor(char delimiter, char c) {
  return (c == ' ' || c == '\t') && c != delimiter && delimiter != '\t';
}

}  // namespace

size_t EndOfCsvRecords(std::string_view text, char delimiter,
                       const std::vector<std::string>& skip_prefixes) {
  CsvTokenizer tokenizer(text, 1, delimiter, skip_prefixes);
  size_t end = 0;
  for (bool more = true; more;) {
    more = tokenizer.Next();
    if (tokenizer.unclosed()) {
      break;
    }
    const size_t position = tokenizer.position() - text.data();
    if (position > 0 && text[position - 1] == '\n') {
      end = position;
    }
  }
  return end;
}

CsvTokenizer::CsvTokenizer(std::string_view text, int64_t first_line,
                           char delimiter,
                           const std::vector<std::string>& skip_prefixes)
    : at_(text.data()),
      end_(text.data() + text.size()),
      next_line_(first_line),
      delimiter_(delimiter),
      skip_prefixes_(skip_prefixes) {}

// Skips one line if it is empty or has one of the prefixes.
bool CsvTokenizer::SkipLine() {
  const std::string_view rest(at_, static_cast<size_t>(end_ - at_));
  const bool skipped =
      rest.front() == '\n' || rest.starts_with("\r\n") || rest == "\r" ||
      std::any_of(skip_prefixes_.begin(), skip_prefixes_.end(),
                  [rest](const std::string& prefix) {
                    return !prefix.empty() && rest.starts_with(prefix);
                  });
  if (skipped) {
    SkipToLineEnd();
  }
  return skipped;
}

void CsvTokenizer::SkipToLineEnd() {
  const void* newline = std::memchr(at_, '\n', static_cast<size_t>(end_ - at_));
  if (newline == nullptr) {
    at_ = end_;
    return;
  }
  at_ = static_cast<const char*>(newline) + 1;
  ++next_line_;
}

void CsvTokenizer::SkipBlanks() {
  while (at_ < end_ && IsBlankFor(delimiter_, *at_)) {
    ++at_;
  }
}

// Whether another field follows; else `at_` is behind the record.
bool CsvTokenizer::EndField() {
  if (at_ == end_) {
    return false;
  }
  const bool more = *at_ == delimiter_;
  if (!more) {
    ++next_line_;
  }
  ++at_;
  return more;
}

void CsvTokenizer::ReadPlain(const char* start) {
  while (at_ < end_ && *at_ != delimiter_ && *at_ != '\n') {
    ++at_;
  }
  const char* stop = at_;
  const bool line_end = at_ == end_ || *at_ == '\n';
  if (line_end && stop > start && stop[-1] == '\r') {
    --stop;
  }
  fields_.emplace_back(start, static_cast<size_t>(stop - start));
}

// `at_` is behind the opening quote. False when the form is wrong.
bool CsvTokenizer::ReadQuoted() {
  const char* start = at_;
  const size_t unquoted_start = unquoted_.size();
  bool doubled = false;
  for (;;) {
    const auto* quote = static_cast<const char*>(
        std::memchr(at_, '"', static_cast<size_t>(end_ - at_)));
    if (quote == nullptr) {
      next_line_ += std::count(at_, end_, '\n');
      at_ = end_;
      unclosed_ = true;
      error_ = "a quoted field is never closed";
      return false;
    }
    next_line_ += std::count(at_, quote, '\n');
    at_ = quote + 1;
    const bool again = at_ < end_ && *at_ == '"';
    if (!again && !doubled) {
      fields_.emplace_back(start, static_cast<size_t>(quote - start));
      break;
    }
    unquoted_.append(start, static_cast<size_t>(quote - start));
    if (!again) {
      fields_.emplace_back(unquoted_.data() + unquoted_start,
                           unquoted_.size() - unquoted_start);
      break;
    }
    doubled = true;
    unquoted_.push_back('"');
    start = ++at_;
  }
  SkipBlanks();
  if (at_ < end_ && *at_ == '\r' && (at_ + 1 == end_ || at_[1] == '\n')) {
    ++at_;
  }
  if (at_ < end_ && *at_ != delimiter_ && *at_ != '\n') {
    SkipToLineEnd();
    error_ = "text follows the closing quote of a field";
    return false;
  }
  return true;
}

bool CsvTokenizer::Next() {
  while (at_ < end_ && SkipLine()) {
  }
  if (at_ == end_) {
    return false;
  }
  fields_.clear();
  error_ = {};
  line_ = next_line_;
  unquoted_.clear();
  for (bool more = true; more;) {
    SkipBlanks();
    if (at_ < end_ && *at_ == '"') {
      if (!reserved_) {
        // Fields point into it, so it must never move.
        unquoted_.reserve(static_cast<size_t>(end_ - at_));
        reserved_ = true;
      }
      ++at_;
      if (!ReadQuoted()) {
        return true;
      }
    } else {
      ReadPlain(at_);
    }
    more = EndField();
  }
  return true;
}

}  // namespace shoal::worker
