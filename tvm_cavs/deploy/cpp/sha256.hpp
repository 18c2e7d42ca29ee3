// SHA-256 (FIPS 180-4) in hexadecimal digits.
#pragma once

#include <string>
#include <string_view>

namespace cavs::inside {

std::string sha256(std::string_view content);

}  // namespace cavs::inside
