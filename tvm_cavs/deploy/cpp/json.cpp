#include "json.hpp"

#include <locale.h>
#include <stdlib.h>

#include <algorithm>
#include <charconv>

namespace cavs::json {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
   public:
    explicit Parser(std::string_view text) : text_(text) {}

    Value whole_text() {
        Value made = value(0);
        space();
        if (at_ != text_.size()) refuse("there is more behind the value");
        return made;
    }

   private:
    [[noreturn]] void refuse(const char *why) const { throw Error{why, at_}; }

    char next() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    void space() {
        while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != text_.npos) {
            at_++;
        }
    }

    bool take(char wanted) {
        space();
        if (at_ >= text_.size() || text_[at_] != wanted) return false;
        at_++;
        return true;
    }

    Value value(int depth) {
        space();
        if (depth > DEEPEST) refuse("too many lists and objects are inside each other");
        Value made;
        switch (next()) {
            case '{':
                object(made, depth);
                return made;
            case '[':
                list(made, depth);
                return made;
            case '"':
                made.kind = Kind::text;
                made.text = string();
                return made;
            default:
                if (!word(made)) number(made);
                return made;
        }
    }

    void object(Value &made, int depth) {
        made.kind = Kind::object;
        at_++;
        if (take('}')) return;
        do {
            space();
            if (next() != '"') refuse("expected a key in quotes");
            std::size_t begin = at_;
            std::string key = string();
            if (made.find(key) != nullptr) {
                throw Error{"the key " + quoted(key) + " stands twice in one object", begin};
            }
            if (!take(':')) refuse("expected ':' behind a key");
            Value held = value(depth + 1);
            made.keys.push_back(std::move(key));
            made.items.push_back(std::move(held));
        } while (take(','));
        if (!take('}')) refuse("expected ',' or '}'");
    }

    void list(Value &made, int depth) {
        made.kind = Kind::list;
        at_++;
        if (take(']')) return;
        do {
            made.items.push_back(value(depth + 1));
        } while (take(','));
        if (!take(']')) refuse("expected ',' or ']'");
    }

    bool word(Value &made) {
        for (const char *each : {"null", "true", "false"}) {
            std::string_view name = each;
            if (text_.substr(at_, name.size()) != name) continue;
            at_ += name.size();
            made.kind = *each == 'n' ? Kind::null : Kind::truth;
            made.truth = *each == 't';
            return true;
        }
        return false;
    }

    void digits() {
        if (!is_digit(next())) refuse("expected a value");
        while (is_digit(next())) at_++;
    }

    void number(Value &made) {
        std::size_t begin = at_;
        if (next() == '-') at_++;
        if (next() == '0') {
            at_++;
        } else {
            digits();
        }
        if (next() == '.') {
            at_++;
            digits();
        }
        if (next() == 'e' || next() == 'E') {
            at_++;
            if (next() == '+' || next() == '-') at_++;
            digits();
        }
        made.kind = Kind::number;
        made.text = text_.substr(begin, at_ - begin);
    }

    std::string string() {
        std::string made;
        at_++;
        while (true) {
            if (at_ >= text_.size()) refuse("a text has no end");
            char c = text_[at_];
            if (c == '"') {
                at_++;
                return made;
            }
            if (static_cast<unsigned char>(c) < 0x20) refuse("a control character in a text");
            if (c == '\\') {
                escape(made);
            } else {
                character(made);
            }
        }
    }

    void escape(std::string &made) {
        static constexpr std::string_view names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
        at_++;
        std::size_t place = at_ < text_.size() ? names.find(text_[at_]) : names.npos;
        if (place != names.npos) {
            made += values[place];
            at_++;
            return;
        }
        if (next() != 'u') refuse("no such escape");
        std::uint32_t code = unit();
        if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
            at_++;
            std::uint32_t low = unit();
            if (low < 0xDC00 || low > 0xDFFF) refuse("half of a surrogate pair is no character");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xD800 && code <= 0xDFFF) {
            refuse("half of a surrogate pair is no character");
        }
        encode(made, code);
    }

    std::uint32_t unit() {
        std::uint32_t code = 0;
        at_++;
        if (text_.size() - at_ < 4) refuse("an escape has no end");
        for (int i = 0; i < 4; i++, at_++) {
            char c = text_[at_];
            auto digit = std::string_view("0123456789abcdef").find(static_cast<char>(c | 0x20));
            if (is_digit(c)) digit = static_cast<std::size_t>(c - '0');
            if (digit == std::string_view::npos || (!is_digit(c) && digit < 10)) {
                refuse("expected four hexadecimal digits");
            }
            code = code * 16 + static_cast<std::uint32_t>(digit);
        }
        return code;
    }

    static void encode(std::string &made, std::uint32_t code) {
        int n_more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        static constexpr std::uint32_t lead[] = {0, 0xC0, 0xE0, 0xF0};
        made += static_cast<char>(lead[n_more] | (code >> (6 * n_more)));
        for (int i = n_more - 1; i >= 0; i--) {
            made += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F));
        }
    }

    // One character of UTF-8: neither too long, nor a surrogate, nor beyond the last one.
    void character(std::string &made) {
        auto byte = [this](std::size_t i) -> std::uint32_t {
            return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0U;
        };
        std::uint32_t first = byte(0);
        std::size_t n = first < 0x80   ? 1
                        : first < 0xC2 ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                                       : 4;
        if (n == 0 || first > 0xF4) refuse("no UTF-8");
        for (std::size_t i = 1; i < n; i++) {
            if ((byte(i) & 0xC0) != 0x80) refuse("no UTF-8");
        }
        std::uint32_t second = byte(1);
        if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
            (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) {
            refuse("no UTF-8");
        }
        made += text_.substr(at_, n);
        at_ += n;
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

[[noreturn]] void mismatch(const char *what, const char *expected) {
    throw Error{std::string(what) + " is no " + expected, 0};
}

}  // namespace

bool Value::is_whole() const {
    return kind == Kind::number && text.find_first_of(".eE") == std::string::npos;
}

const Value *Value::find(std::string_view key) const {
    auto found = std::find(keys.begin(), keys.end(), key);
    return found == keys.end() ? nullptr : &items[static_cast<std::size_t>(found - keys.begin())];
}

Value parse(std::string_view text) { return Parser(text).whole_text(); }

const Value &at(const Value &object, const char *key) {
    if (!object.is(Kind::object)) mismatch(key, "key of an object");
    const Value *found = object.find(key);
    if (found == nullptr) throw Error{std::string("there is no key ") + quoted(key), 0};
    return *found;
}

const std::vector<Value> &list(const Value &value, const char *what) {
    if (!value.is(Kind::list)) mismatch(what, "list");
    return value.items;
}

const std::string &text(const Value &value, const char *what) {
    if (!value.is(Kind::text)) mismatch(what, "text");
    return value.text;
}

std::int64_t whole(const Value &value, const char *what) {
    if (!value.is_whole()) mismatch(what, "integer");
    std::int64_t made = 0;
    const char *end = value.text.data() + value.text.size();
    auto [stop, error] = std::from_chars(value.text.data(), end, made);
    if (error != std::errc() || stop != end) mismatch(what, "integer of 64 bits");
    return made;
}

double number(const Value &value, const char *what) {
    if (!value.is(Kind::number)) mismatch(what, "number");
    double made = 0;
    const char *begin = value.text.data(), *end = begin + value.text.size();
    if (std::from_chars(begin, end, made).ec == std::errc()) return made;
    // Too large or too small for double: infinite or zero, by whatever locale the program has.
    locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr);
    if (plain == nullptr) mismatch(what, "number that can be read");
    made = strtod_l(begin, nullptr, plain);
    freelocale(plain);
    return made;
}

std::vector<std::int64_t> wholes(const Value &value, const char *what) {
    std::vector<std::int64_t> made;
    made.reserve(list(value, what).size());
    for (const Value &each : value.items) made.push_back(whole(each, what));
    return made;
}

std::string quoted(std::string_view text) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string made = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') {
            made += '\\';
            made += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            made += "\\u00";
            made += digits[c >> 4];
            made += digits[c & 15];
        } else {
            made += c;
        }
    }
    return made + '"';
}

}  // namespace cavs::json
