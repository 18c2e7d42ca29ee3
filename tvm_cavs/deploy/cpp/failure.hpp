// What went wrong, as it travels to the C interface: a status and a text.
#pragma once

#include <string>
#include <type_traits>

#include "cavs.h"

namespace cavs::inside {

struct Failure {
    cavs_status status;
    std::string text;
};

inline void append(std::string &to, const std::string &part) { to += part; }
inline void append(std::string &to, const char *part) { to += part; }

template <class Number, class = std::enable_if_t<std::is_integral_v<Number>>>
void append(std::string &to, Number number) {
    to += std::to_string(number);
}

// Texts and integers in a row.
template <class... Part>
std::string text(const Part &...parts) {
    std::string made;
    (append(made, parts), ...);
    return made;
}

template <class... Part>
[[noreturn]] void fail(cavs_status status, const Part &...parts) {
    throw Failure{status, text(parts...)};
}

}  // namespace cavs::inside
