// JSON, read strictly: what RFC 8259 says and nothing else, no key twice in one object, valid
// UTF-8, and at most DEEPEST lists and objects inside each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cavs::json {

constexpr int DEEPEST = 64;

// Why a text is no JSON, or not what was expected, and the byte where that shows.
struct Error {
    std::string text;
    std::size_t place;
};

enum class Kind : std::uint8_t { null, truth, number, text, list, object };

struct Value {
    Kind kind = Kind::null;
    bool truth = false;
    std::string text;               // of a text, or of a number as it is written
    std::vector<std::string> keys;  // of an object; its values are items
    std::vector<Value> items;

    bool is(Kind other) const { return kind == other; }
    // Whether it is written without a fraction and an exponent.
    bool is_whole() const;
    // The value of a key, or a null pointer.
    const Value *find(std::string_view key) const;
};

Value parse(std::string_view text);

// What a value must be; Error otherwise, which says what it is called.
const Value &at(const Value &object, const char *key);
const std::vector<Value> &list(const Value &value, const char *what);
const std::string &text(const Value &value, const char *what);
std::int64_t whole(const Value &value, const char *what);
double number(const Value &value, const char *what);  // infinite if it is beyond double
std::vector<std::int64_t> wholes(const Value &value, const char *what);

// A text as JSON writes it.
std::string quoted(std::string_view text);

}  // namespace cavs::json
