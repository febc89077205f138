#pragma once
// Tables for people: columns as wide as what stands in them.

#include <iosfwd>
#include <string>
#include <vector>

namespace vitrail {

struct Column {
  std::string title;
  bool right = false;  ///< numbers stand at the right
};

class Table {
 public:
  explicit Table(std::vector<Column> columns);
  /// One text for every column.
  void add(std::vector<std::string> row);
  /// Titles, then the rows in their order; two spaces between columns, none at the end of a line.
  void print(std::ostream& out) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace vitrail
