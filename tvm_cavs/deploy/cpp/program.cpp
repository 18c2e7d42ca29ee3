#include "program.hpp"

#include "failure.hpp"
#include "json.hpp"

namespace cavs::inside {
namespace {

using json::at;
using json::Value;

[[noreturn]] void wrong(const std::string &why) { throw json::Error{why, 0}; }

const std::string &word_at(const Value &object, const char *key) {
    return json::text(at(object, key), key);
}

std::int64_t whole_at(const Value &object, const char *key) {
    return json::whole(at(object, key), key);
}

const std::vector<Value> &list_at(const Value &object, const char *key) {
    return json::list(at(object, key), key);
}

std::vector<std::string> words(const Value &object, const char *key) {
    std::vector<std::string> made;
    for (const Value &each : list_at(object, key)) made.push_back(json::text(each, key));
    return made;
}

// A number that counts something of which there are n.
int place(std::int64_t given, std::size_t n, const char *what) {
    if (given < 0 || given >= static_cast<std::int64_t>(n)) {
        wrong(text(what, " is ", given, ", and there are ", n));
    }
    return static_cast<int>(given);
}

std::vector<int> places(const Value &object, const char *key, std::size_t n) {
    std::vector<int> made;
    for (const Value &each : list_at(object, key))
        made.push_back(place(json::whole(each, key), n, key));
    return made;
}

std::vector<std::uint8_t> flags(const Value &given, std::size_t n, const char *what) {
    std::vector<std::uint8_t> made;
    for (std::int64_t each : json::wholes(given, what)) made.push_back(each != 0);
    if (made.size() != n) wrong(text(what, " has ", made.size(), " kinds, and there are ", n));
    return made;
}

DType dtype(const std::string &name) {
    constexpr struct {
        const char *name;
        DType dtype;
    } known[] = {{"float32", FLOAT32},    {"int32", INT32},       {"int64", INT64},
                 {"uint8", UINT8},        {"uint16", {1, 16, 1}}, {"uint32", {1, 32, 1}},
                 {"float16", {2, 16, 1}}, {"int16", {0, 16, 1}},  {"int8", {0, 8, 1}}};
    for (const auto &row : known) {
        if (name == row.name) return row.dtype;
    }
    wrong("a buffer of the unknown dtype " + json::quoted(name));
}

struct RoleName {
    const char *name;
    Role role;
};

constexpr RoleName ROLES[] = {
    {"child", Role::child}, {"index", Role::index},     {"choice", Role::choice},
    {"pull", Role::input},  {"present", Role::present}, {"state", Role::values},
    {"save", Role::values}, {"scratch", Role::values},  {"total", Role::values},
    {"push", Role::pushed}, {"param", Role::weight},    {"flat", Role::weight},
    {"pack", Role::weight}, {"net.pack", Role::weight}, {"net", Role::weight},
};

Role role(const std::string &name) {
    for (const RoleName &row : ROLES) {
        if (name == row.name) return row.role;
    }
    wrong("buffers of role " + json::quoted(name) + " are unknown here");
}

Space space(const Value &given, std::size_t n_kinds) {
    Space made;
    const std::string &what = word_at(given, "what");
    made.base = whole_at(given, "base");
    made.kind = what == "scratch" ? SpaceKind::scratch
                : what == "parts" ? SpaceKind::parts
                                  : SpaceKind::rows;
    if (made.kind == SpaceKind::rows) made.kinds = flags(at(given, "kinds"), n_kinds, "a space");
    return made;
}

Buffer buffer(const Value &given, std::size_t n_spaces) {
    Buffer made;
    const std::string &name = word_at(given, "role");
    const Value &key = at(given, "key");
    made.role = role(name);
    made.is_flat = name == "flat";
    made.name = name;
    if (key.is(json::Kind::list)) {
        for (const Value &part : key.items) made.name += "." + part.text;
    } else {
        made.name += "." + key.text;
        made.key = key.text;
    }
    if (made.role == Role::child) made.slot = json::whole(key, "key");
    if (given.find("space") != nullptr) {
        made.space = place(whole_at(given, "space"), n_spaces, "space");
        made.ld = whole_at(given, "ld");
        made.dtype = dtype(word_at(given, "dtype"));
        if (made.ld < 0) wrong(made.name + " has a negative width");
    } else if (given.find("shape") != nullptr) {
        made.has_shape = true;
        made.dims = json::wholes(at(given, "shape"), "shape");
        made.dtype = dtype(word_at(given, "dtype"));
    } else if (made.role != Role::weight) {
        wrong(made.name + " has no size");
    }
    return made;
}

Step step(const Value &given, const std::vector<int> &spaces, std::size_t n_buffers) {
    Step made;
    made.is_product = word_at(given, "kind") == "product";
    made.functions = words(given, "functions");
    made.limits = json::wholes(at(given, "limits"), "limits");
    for (int i : places(given, "starts", spaces.size())) {
        made.starts.push_back(spaces[static_cast<std::size_t>(i)]);
    }
    made.buffers = places(given, "buffers", n_buffers);
    if (made.functions.empty() || made.functions.size() != made.limits.size()) {
        wrong("a step has as many limits as functions, and one at least");
    }
    return made;
}

Group group(const Value &given, std::size_t n_kinds, std::size_t n_spaces, std::size_t n_buffers) {
    Group made;
    const std::string &stage = word_at(given, "stage");
    made.stage = stage == "eager" ? 0 : stage == "recurrent" ? 1 : stage == "lazy" ? 2 : -1;
    if (made.stage < 0) wrong("the stage " + json::quoted(stage) + " is unknown here");
    made.member = flags(at(given, "member"), n_kinds, "a group");
    made.spaces = places(given, "spaces", n_spaces);
    made.most_rows = whole_at(given, "most_rows");
    if (made.most_rows < 1) wrong("a group takes no rows");
    for (const Value &each : list_at(given, "steps"))
        made.steps.push_back(step(each, made.spaces, n_buffers));
    return made;
}

void read_kinds(Program &made, const Value &kinds) {
    made.maybe = whole_at(kinds, "maybe");
    made.rank = json::wholes(at(kinds, "rank"), "rank");
    std::size_t n = made.rank.size();
    std::vector<bool> taken(n);
    for (std::int64_t rank : made.rank) {
        auto to = static_cast<std::size_t>(place(rank, n, "rank"));
        if (taken[to]) wrong("two kinds have one rank");
        taken[to] = true;
    }
    if (n == 0) wrong("there are no kinds of vertices");
    for (const Value &each : list_at(kinds, "number")) {
        auto pair = json::wholes(each, "number");
        if (pair.size() != 2) wrong("a mask has no kind");
        made.number.emplace_back(pair[0], place(pair[1], n, "kind"));
    }
}

Program program(const Value &given) {
    Program made;
    made.arity = whole_at(given, "arity");
    made.n_parts = whole_at(given, "n_parts");
    made.pulls = words(given, "pulls");
    read_kinds(made, at(given, "kinds"));
    std::size_t n_kinds = made.rank.size();
    for (const Value &each : list_at(given, "spaces")) made.spaces.push_back(space(each, n_kinds));
    std::size_t n_spaces = made.spaces.size();
    for (std::size_t i = 1; i < n_spaces; i++) {
        if (made.spaces[i - 1].kinds.empty() && !made.spaces[i].kinds.empty()) {
            wrong("spaces of kinds do not come first");
        }
    }
    for (const Value &each : list_at(given, "buffers"))
        made.buffers.push_back(buffer(each, n_spaces));
    std::size_t n_buffers = made.buffers.size();
    for (const Value &each : list_at(given, "groups")) {
        made.groups.push_back(group(each, n_kinds, n_spaces, n_buffers));
    }
    for (const Value &each : list_at(given, "outputs")) {
        made.outputs.emplace_back(word_at(each, "name"),
                                  place(whole_at(each, "buffer"), n_buffers, "buffer"));
    }
    for (const Value &each : list_at(given, "packs")) {
        made.packs.push_back({place(whole_at(each, "buffer"), n_buffers, "buffer"),
                              word_at(each, "function"), places(each, "sources", n_buffers)});
    }
    made.values = places(given, "values", n_buffers);
    const Value &host = at(given, "host");
    for (const std::string &key : host.keys)
        made.host.emplace_back(key, word_at(host, key.c_str()));
    return made;
}

}  // namespace

Program read_program(const std::string &content, const char *name) {
    try {
        return program(json::parse(content));
    } catch (const json::Error &error) {
        fail(CAVS_ERROR_DAMAGED, name, " is no program of tvm_cavs: ", error.text, ".");
    }
}

}  // namespace cavs::inside
