#include "sha256.hpp"

#include <array>
#include <cstdint>
#include <cstring>

namespace cavs::inside {
namespace {

constexpr std::size_t BLOCK = 64;

constexpr std::uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

using State = std::array<std::uint32_t, 8>;

std::uint32_t turned(std::uint32_t x, int n) { return x >> n | x << (32 - n); }

void add_block(State &state, const unsigned char *block) {
    std::uint32_t w[64];
    for (int i = 0; i < 16; i++) {
        w[i] = static_cast<std::uint32_t>(block[4 * i]) << 24 |
               static_cast<std::uint32_t>(block[4 * i + 1]) << 16 |
               static_cast<std::uint32_t>(block[4 * i + 2]) << 8 | block[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
        std::uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[i - 7] +
               (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; i++) {
        std::uint32_t s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
        std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + K[i] + w[i];
        std::uint32_t s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22);
        std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::uint32_t made[] = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; i++) state[i] += made[i];
}

}  // namespace

std::string sha256(std::string_view content) {
    State state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const auto *bytes = reinterpret_cast<const unsigned char *>(content.data());
    std::size_t n = content.size(), whole = n / BLOCK * BLOCK;
    for (std::size_t i = 0; i < whole; i += BLOCK) add_block(state, bytes + i);
    unsigned char last[2 * BLOCK] = {};
    if (n > whole) std::memcpy(last, bytes + whole, n - whole);
    last[n - whole] = 0x80;
    std::size_t end = n - whole + 9 <= BLOCK ? BLOCK : 2 * BLOCK;
    for (std::size_t i = 0; i < 8; i++) {
        last[end - 1 - i] = static_cast<unsigned char>(std::uint64_t{n} * 8 >> (8 * i));
    }
    for (std::size_t i = 0; i < end; i += BLOCK) add_block(state, last + i);
    std::string made;
    for (std::uint32_t word : state) {
        for (int shift = 28; shift >= 0; shift -= 4) made += "0123456789abcdef"[word >> shift & 15];
    }
    return made;
}

}  // namespace cavs::inside
