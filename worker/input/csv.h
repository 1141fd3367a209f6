#ifndef SHOAL_WORKER_INPUT_CSV_H_
#define SHOAL_WORKER_INPUT_CSV_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shoal::worker {

// Splits text into records and fields after RFC 4180: quoted fields may hold
// delimiters, newlines and doubled quotes; lines end in LF or CRLF. Blanks
// after a delimiter are skipped, and so are empty lines and lines with one of
// the prefixes.
class CsvTokenizer {
 public:
  // `text` must begin and end between records; it and `skip_prefixes` must
  // outlive this object.
  CsvTokenizer(std::string_view text, int64_t first_line, char delimiter,
               const std::vector<std::string>& skip_prefixes);

  // Moves to the next record; false at the end.
  bool Next();

  // Of the record: fields that stay valid until the next call, its first line,
  // and why its form is wrong (empty: it is right).
  const std::vector<std::string_view>& fields() const { return fields_; }
  int64_t line() const { return line_; }
  std::string_view error() const { return error_; }

  // Behind the record; and whether the text ended inside of a quoted field.
  const char* position() const { return at_; }
  bool unclosed() const { return unclosed_; }

 private:
  bool SkipLine();
  void ReadPlain(const char* start);
  bool ReadQuoted();
  void SkipBlanks();
  bool EndField();
  void SkipToLineEnd();

  const char* at_;
  const char* end_;
  int64_t next_line_;
  char delimiter_;
  const std::vector<std::string>& skip_prefixes_;
  int64_t line_ = 0;
  std::vector<std::string_view> fields_;
  std::string_view error_;
  bool unclosed_ = false;
  std::string unquoted_;  // memory of fields with doubled quotes
  bool reserved_ = false;
};

// Bytes of the whole records at the beginning of `text`, as a CsvTokenizer
// finds them.
size_t EndOfCsvRecords(std::string_view text, char delimiter,
                       const std::vector<std::string>& skip_prefixes);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_CSV_H_
