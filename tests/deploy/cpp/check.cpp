// Batches through the C interface, by several threads at once, for tests/deploy/test_cpp.py.
//
//     check FOLDER THREADS REPEATS LIMIT < batches > answers
//
// Both are 8-byte integers and plain arrays in a row. Every thread runs all batches, REPEATS times;
// the answers of the first are written, and those of all others must be the same.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "cavs.h"

namespace {

std::string content;
std::size_t place = 0;

// The next bytes, in memory of their own, so that what reads beyond their end is found.
std::vector<char> take(std::size_t n) {
    if (content.size() - place < n) std::exit(4);
    std::vector<char> made(content.begin() + static_cast<std::ptrdiff_t>(place),
                           content.begin() + static_cast<std::ptrdiff_t>(place + n));
    made.shrink_to_fit();
    place += n;
    return made;
}

std::int64_t number() {
    std::int64_t made;
    std::memcpy(&made, take(sizeof made).data(), sizeof made);
    return made;
}

std::vector<char> sized() { return take(static_cast<std::size_t>(number())); }

struct Input {
    std::string name;
    std::int64_t dtype, n_values, has_values, has_present;
    std::vector<char> values, present;
};

struct Batch {
    std::int64_t n_vertices, n_slots, bits;
    std::vector<char> child_ptr, child;
    std::vector<Input> inputs;
};

Batch batch() {
    Batch made;
    made.n_vertices = number();
    made.n_slots = number();
    made.bits = number();
    made.child_ptr = sized();
    made.child = sized();
    made.inputs.resize(static_cast<std::size_t>(number()));
    for (Input &each : made.inputs) {
        auto name = sized();
        each.name.assign(name.begin(), name.end());
        each.dtype = number();
        each.n_values = number();
        each.has_values = number();
        each.values = sized();
        each.has_present = number();
        each.present = sized();
    }
    return made;
}

std::string bytes(std::int64_t value) {
    char made[sizeof value];
    std::memcpy(made, &value, sizeof value);
    return {made, sizeof value};
}

// A status, then outputs or a text.
std::string answer(cavs_model *model, const Batch &b) {
    std::vector<cavs_values> values;
    for (const Input &each : b.inputs) {
        const auto *present = reinterpret_cast<const std::uint8_t *>(each.present.data());
        values.push_back({each.name.c_str(), each.has_values != 0 ? each.values.data() : nullptr,
                          each.n_values, static_cast<std::int32_t>(each.dtype),
                          each.has_present != 0 ? present : nullptr});
    }
    cavs_batch given = {b.n_vertices,
                        b.n_slots,
                        b.child_ptr.data(),
                        b.child.data(),
                        static_cast<std::int32_t>(b.bits),
                        static_cast<std::int32_t>(values.size()),
                        values.data()};
    std::vector<std::vector<float>> arrays(static_cast<std::size_t>(cavs_n_outputs(model)));
    std::vector<cavs_result> results;
    for (std::size_t i = 0; i < arrays.size(); i++) {
        cavs_info info;
        if (cavs_output(model, static_cast<std::int32_t>(i), &info) != CAVS_OK) std::exit(4);
        bool sane = b.n_vertices > 0 && b.n_vertices < 1 << 20;
        arrays[i].resize(sane ? static_cast<std::size_t>(b.n_vertices * info.width) : 0);
        results.push_back(
            {info.name, arrays[i].data(), static_cast<std::int64_t>(arrays[i].size())});
    }
    cavs_status status =
        cavs_run(model, &given, results.data(), static_cast<std::int32_t>(results.size()));
    std::string made = bytes(status);
    if (status != CAVS_OK) {
        std::string why = cavs_last_error();
        return made + bytes(static_cast<std::int64_t>(why.size())) + why;
    }
    for (const auto &array : arrays) {
        if (array.empty()) continue;
        made.append(reinterpret_cast<const char *>(array.data()), array.size() * sizeof(float));
    }
    return made;
}

std::string answers(cavs_model *model, const std::vector<Batch> &batches) {
    std::string made;
    for (const Batch &each : batches) made += answer(model, each);
    return made;
}

}  // namespace

int main(int n, char **given) {
    if (n != 5) return 4;
    cavs_model *model = nullptr;
    cavs_status status = cavs_load(given[1], &model);
    if (status != CAVS_OK) {
        std::printf("%s: %s", cavs_status_name(status), cavs_last_error());
        return 2;
    }
    char block[1 << 16];
    while (std::size_t got = std::fread(block, 1, sizeof block, stdin)) content.append(block, got);
    std::vector<Batch> batches(static_cast<std::size_t>(number()));
    for (Batch &each : batches) each = batch();
    if (cavs_limit_memory(model, std::atoll(given[4])) != CAVS_OK) return 4;
    std::string first = answers(model, batches);
    std::vector<std::thread> threads;
    std::vector<char> differs(static_cast<std::size_t>(std::atoi(given[2])));
    int repeats = std::atoi(given[3]);
    for (char &mine : differs) {
        threads.emplace_back([&] {
            for (int i = 0; i < repeats; i++) mine |= answers(model, batches) != first;
            cavs_release(model);
        });
    }
    for (std::thread &each : threads) each.join();
    cavs_free(model);
    cavs_free(nullptr);
    for (char each : differs) {
        if (each != 0) return 3;
    }
    std::fwrite(first.data(), 1, first.size(), stdout);
    return 0;
}
