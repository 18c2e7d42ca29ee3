// Graphs as JSON lines -> a JSON line of outputs for each, from an exported folder.
//
//     answer [--batch N] [--time] FOLDER [FILE]
//
// Lines as tvm_cavs reads them: {"children": [[], [], [0, 1]], "inputs": {"word": ["a", "b",
// null]}}, or "parents": [2, 2, null] for "children". Blank lines are left out.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "../cavs.hpp"
#include "../json.hpp"

namespace {

using cavs::json::Kind;
using cavs::json::Value;

constexpr const char *USAGE = "usage: answer [--batch N] [--time] FOLDER [FILE]\n";
constexpr int WARM_UP = 20, RUNS = 200;  // of a graph whose time is taken

struct Line {
    std::size_t number;
    std::string text;
};

// What is wrong with a line.
struct Refused {
    std::string text;
};

std::int64_t index_of(const Value &given) {
    return given.is(Kind::null) ? -1 : cavs::json::whole(given, "a vertex");
}

// Children of every vertex, from either of the keys that may say them.
std::vector<std::vector<std::int64_t>> children_of(const Value &line) {
    for (const std::string &key : line.keys) {
        if (key != "children" && key != "parents" && key != "inputs") {
            throw Refused{"unknown key " + cavs::json::quoted(key) +
                          "; expected children or parents, and inputs"};
        }
    }
    const Value *children = line.find("children"), *parents = line.find("parents");
    if ((children == nullptr) == (parents == nullptr)) {
        throw Refused{"expected either \"children\" or \"parents\""};
    }
    std::vector<std::vector<std::int64_t>> made;
    if (children != nullptr) {
        for (const Value &slots : cavs::json::list(*children, "children")) {
            made.emplace_back();
            for (const Value &c : cavs::json::list(slots, "an entry of children")) {
                made.back().push_back(index_of(c));
            }
        }
        return made;
    }
    const auto &given = cavs::json::list(*parents, "parents");
    made.resize(given.size());
    for (std::size_t v = 0; v < given.size(); v++) {
        std::int64_t parent = index_of(given[v]);
        if (parent == -1) continue;
        if (parent < 0 || static_cast<std::size_t>(parent) >= given.size()) {
            throw Refused{"vertex " + std::to_string(v) + ": its parent " + std::to_string(parent) +
                          " is out of range; expected 0.." + std::to_string(given.size() - 1) +
                          ", or null for a root"};
        }
        made[static_cast<std::size_t>(parent)].push_back(static_cast<std::int64_t>(v));
    }
    return made;
}

// Append the numbers of one vertex, nested as its dims from `axis` on.
void append(cavs::Input &to, const cavs::Model &model, const Value &given, std::int32_t axis) {
    const cavs_info &info = to.info;
    if (axis < info.n_dims) {
        const auto &items = cavs::json::list(given, "it");
        if (static_cast<std::int64_t>(items.size()) != info.dims[axis]) {
            throw Refused{"a list of " + std::to_string(items.size()) + ", expected " +
                          std::to_string(info.dims[axis])};
        }
        for (const Value &each : items) append(to, model, each, axis + 1);
    } else if (std::strcmp(info.kind, "tokens") == 0) {
        to.integers.push_back(model.token(cavs::json::text(given, "it")));
    } else if (info.dtype == CAVS_INT32) {
        std::int64_t number = cavs::json::whole(given, "it");
        auto made = static_cast<std::int32_t>(number);
        if (made != number) throw Refused{given.text + " does not fit int32"};
        to.integers.push_back(made);
    } else {
        double number = cavs::json::number(given, "it");
        if (!(std::fabs(number) <= static_cast<double>(std::numeric_limits<float>::max()))) {
            throw Refused{given.text + " is not finite in float32"};
        }
        to.numbers.push_back(static_cast<float>(number));
    }
}

// Also of inputs that the model does not read.
void check_entries(const std::string &name, const Value &given, std::int64_t n) {
    auto size = static_cast<std::int64_t>(given.items.size());
    if (given.is(Kind::list) && size == n) return;
    throw Refused{
        "input " + name + " has " +
        (given.is(Kind::list) ? std::to_string(size) + " entries" : "no list of entries") +
        "; expected a list of " + std::to_string(n) +
        ", one a vertex. Put null where a vertex has no such input"};
}

void add_input(cavs::Input &to, const cavs::Model &model, const Value *given, std::size_t n) {
    for (std::size_t v = 0; v < n; v++) {
        const Value *entry = given == nullptr ? nullptr : &given->items[v];
        bool has = entry != nullptr && !entry->is(Kind::null);
        to.present.push_back(has);
        try {
            if (has && to.info.dtype != CAVS_NONE) {
                append(to, model, *entry, 0);
            } else if (to.info.dtype == CAVS_INT32) {
                to.integers.insert(to.integers.end(), static_cast<std::size_t>(to.info.width), -1);
            } else {
                to.numbers.insert(to.numbers.end(), static_cast<std::size_t>(to.info.width), 0.0F);
            }
        } catch (const cavs::json::Error &error) {
            throw Refused{"vertex " + std::to_string(v) + ": input " + to.info.name + ": " +
                          error.text};
        } catch (const Refused &refused) {
            throw Refused{"vertex " + std::to_string(v) + ": input " + to.info.name + ": " +
                          refused.text};
        }
    }
}

// Add the graph of a line to a batch; the number of its vertices.
std::int64_t add_line(cavs::Batch &batch, const cavs::Model &model, const std::string &text) {
    Value line = cavs::json::parse(text);
    if (!line.is(Kind::object)) throw Refused{"expected an object {...}"};
    auto children = children_of(line);
    const Value *inputs = line.find("inputs");
    if (inputs != nullptr && !inputs->is(Kind::object))
        throw Refused{"\"inputs\" is no object of lists"};
    std::int64_t first = batch.n_vertices(), n = static_cast<std::int64_t>(children.size());
    if (n == 0) throw Refused{"the graph is empty; expected at least one vertex"};
    for (std::int64_t v = 0; v < n; v++) {
        auto &slots = children[static_cast<std::size_t>(v)];
        for (std::int64_t &c : slots) {
            if (c < -1 || c >= n) {  // it must not be a vertex of another line
                throw Refused{"vertex " + std::to_string(v) + ": child " + std::to_string(c) +
                              " is out of range; expected 0.." + std::to_string(n - 1) +
                              ", or null for an empty slot"};
            }
            if (c >= 0) c += first;
        }
        batch.add(slots);
    }
    for (std::size_t i = 0; inputs != nullptr && i < inputs->items.size(); i++) {
        check_entries(inputs->keys[i], inputs->items[i], n);
    }
    for (cavs::Input &each : batch.inputs()) {
        const Value *given = inputs == nullptr ? nullptr : inputs->find(each.info.name);
        add_input(each, model, given, static_cast<std::size_t>(n));
    }
    return n;
}

void print(std::string &to, float number) {
    if (!std::isfinite(number)) {  // as Python's json has them
        to += std::isnan(number) ? "NaN" : number < 0 ? "-Infinity" : "Infinity";
        return;
    }
    char digits[32];  // the fewest that give the same number again
    to.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

// The numbers of one vertex, nested as their dims; the first that was not printed.
const float *print(std::string &to, const cavs_info &info, const float *from, std::int32_t axis) {
    if (axis == info.n_dims) {
        print(to, *from);
        return from + 1;
    }
    to += '[';
    for (std::int64_t i = 0; i < info.dims[axis]; i++) {
        if (i > 0) to += ", ";
        from = print(to, info, from, axis + 1);
    }
    to += ']';
    return from;
}

void print_graph(const std::vector<cavs::Output> &outputs, std::int64_t first, std::int64_t n) {
    std::string made = "{";
    for (const cavs::Output &each : outputs) {
        if (made.size() > 1) made += ", ";
        made += cavs::json::quoted(each.info.name) + ": [";
        const float *from = each.values.data() + first * each.info.width;
        for (std::int64_t v = 0; v < n; v++) {
            if (v > 0) made += ", ";
            from = print(made, each.info, from, 0);
        }
        made += ']';
    }
    std::cout << made << "}\n";
}

[[noreturn]] void refuse(const std::string &source, const Line &line, const std::string &why) {
    std::cout.flush();
    std::cerr << source << ", line " << line.number << ": " << why << "\n";
    std::exit(1);
}

std::int64_t add_or_refuse(cavs::Batch &batch, const cavs::Model &model, const std::string &source,
                           const Line &line) {
    try {
        return add_line(batch, model, line.text);
    } catch (const cavs::json::Error &error) {
        refuse(source, line, error.text + " (byte " + std::to_string(error.place + 1) + ")");
    } catch (const Refused &refused) {
        refuse(source, line, refused.text);
    }
}

// Answer some lines, all of them run together. Of what the model refuses the line is found by
// itself.
void answer(const cavs::Model &model, const std::string &source, const std::vector<Line> &lines) {
    cavs::Batch batch(model);
    std::vector<std::int64_t> sizes;
    for (const Line &line : lines) sizes.push_back(add_or_refuse(batch, model, source, line));
    try {
        auto outputs = model.run(batch);
        std::int64_t first = 0;
        for (std::int64_t n : sizes) {
            print_graph(outputs, first, n);
            first += n;
        }
        std::cout.flush();
    } catch (const cavs::Error &error) {
        if (lines.size() == 1) refuse(source, lines[0], error.what());
        for (const Line &line : lines) answer(model, source, {line});
    }
}

// The median time of one graph's call, over all graphs.
void take_time(const cavs::Model &model, const std::string &source,
               const std::vector<Line> &lines) {
    std::vector<double> times;
    for (const Line &line : lines) {
        cavs::Batch batch(model);
        add_or_refuse(batch, model, source, line);
        for (int i = 0; i < WARM_UP + RUNS; i++) {
            auto begin = std::chrono::steady_clock::now();
            try {
                model.run(batch);
            } catch (const cavs::Error &error) {
                refuse(source, line, error.what());
            }
            std::chrono::duration<double, std::micro> took =
                std::chrono::steady_clock::now() - begin;
            if (i >= WARM_UP) times.push_back(took.count());
        }
    }
    if (times.empty()) return;
    auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    std::printf("median %.1f us a graph, of %zu graphs, %d runs each\n", *middle, lines.size(),
                RUNS);
}

struct Options {
    std::size_t batch = 64;
    bool time = false;
    std::string folder, file;
};

bool parse(int n, char **given, Options &to) {
    std::vector<std::string> places;
    for (int i = 1; i < n; i++) {
        std::string word = given[i];
        if (word == "--time") {
            to.time = true;
        } else if (word == "--batch" && i + 1 < n) {
            const char *text = given[++i], *end = text + std::strlen(text);
            auto [stop, error] = std::from_chars(text, end, to.batch);
            if (error != std::errc() || stop != end || to.batch == 0) return false;
        } else if (word.substr(0, 2) == "--") {
            return false;
        } else {
            places.push_back(word);
        }
    }
    if (places.empty() || places.size() > 2) return false;
    to.folder = places[0];
    if (places.size() > 1) to.file = places[1];
    return true;
}

int run(const Options &options) {
    cavs::Model model(options.folder);
    std::ifstream file;
    std::string source = options.file.empty() ? "input" : options.file;
    if (!options.file.empty()) {
        file.open(options.file);
        if (!file) throw std::runtime_error(options.file + " cannot be read.");
    }
    std::istream &from = options.file.empty() ? std::cin : file;
    std::vector<Line> lines;
    std::string text;
    for (std::size_t number = 1; std::getline(from, text); number++) {
        if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
        lines.push_back({number, text});
        if (options.time || lines.size() < options.batch) continue;
        answer(model, source, lines);
        lines.clear();
    }
    if (from.bad()) throw std::runtime_error(source + " cannot be read.");
    if (options.time) {
        take_time(model, source, lines);
    } else if (!lines.empty()) {
        answer(model, source, lines);
    }
    std::cout.flush();
    return std::cout ? 0 : 1;
}

}  // namespace

int main(int n, char **given) {
    Options options;
    if (!parse(n, given, options)) {
        std::fputs(USAGE, stderr);
        return 2;
    }
    std::ios::sync_with_stdio(false);
    try {
        return run(options);
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
