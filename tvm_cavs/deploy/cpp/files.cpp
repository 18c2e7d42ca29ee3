#include "files.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "failure.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace cavs::inside {
namespace {

bool truth(const json::Value &object, const char *key) {
    const json::Value &found = json::at(object, key);
    if (!found.is(json::Kind::truth)) throw json::Error{text(key, " is neither true nor false"), 0};
    return found.truth;
}

void replace_all(std::string &token, std::string_view from, char to) {
    for (std::size_t at = 0; (at = token.find(from, at)) != std::string::npos; at++) {
        token.replace(at, from.size(), 1, to);
    }
}

constexpr std::int64_t FORMAT = 1;
constexpr const char *MANIFEST = "manifest.yaml";
constexpr const char *AGAIN = " Export the model again, or take another copy of the folder.";
constexpr std::size_t SHOWN = 12;   // digits of a digest in a message
constexpr std::size_t LENGTH = 8;   // bytes of the length of a safetensors header
constexpr std::size_t ELEMENT = 4;  // bytes of one number
constexpr std::int64_t MOST = std::int64_t{1} << 62;
const std::map<std::string_view, const char *> ESCAPES = {{"-LRB-", "("}, {"-RRB-", ")"},
                                                          {"-LCB-", "{"}, {"-RCB-", "}"},
                                                          {"-LSB-", "["}, {"-RSB-", "]"}};

struct Close {
    void operator()(std::FILE *file) const { std::fclose(file); }
};

// strerror, which may use memory that threads share.
std::string reason(int number) {
    char buffer[128] = "";
    return strerror_r(number, buffer, sizeof buffer);
}

void check_format(const std::string &path, const json::Value &manifest) {
    const json::Value *given = manifest.find("format");
    if (given == nullptr || !given->is_whole() || json::whole(*given, "format") < 1) {
        fail(CAVS_ERROR_DAMAGED, path, " is no manifest of tvm_cavs: it has no format.");
    }
    if (json::whole(*given, "format") <= FORMAT) return;
    const json::Value *versions = manifest.find("versions");
    const json::Value *by = versions == nullptr ? nullptr : versions->find("tvm_cavs");
    fail(CAVS_ERROR_NEWER, path, " has format ", given->text, "; this library reads up to ", FORMAT,
         ". Build the one of the version that wrote it (", by == nullptr ? "unknown" : by->text,
         "), or export the model with this one.");
}

cavs_dtype dtype(const json::Value &given) {
    const std::string &name = json::text(given, "dtype");
    if (name == "int32") return CAVS_INT32;
    if (name == "float32") return CAVS_FLOAT32;
    throw json::Error{"a dtype is neither int32 nor float32", 0};
}

Named input(const json::Value &given) {
    Named made;
    made.name = json::text(json::at(given, "name"), "name");
    const json::Value &shape = json::at(given, "shape"), &kind = json::at(given, "kind");
    const json::Value &limit = json::at(given, "limit");
    if (!kind.is(json::Kind::null)) made.kind = json::text(kind, "kind");
    if (!limit.is(json::Kind::null)) made.limit = json::whole(limit, "limit");
    if (shape.is(json::Kind::null)) return made;
    made.dims = json::wholes(shape, "shape");
    made.dtype = dtype(json::at(given, "dtype"));
    made.width = product(made.dims);
    return made;
}

Named output(const json::Value &given) {
    Named made;
    made.name = json::text(json::at(given, "name"), "name");
    made.kind = "numbers";
    made.dims = json::wholes(json::at(given, "shape"), "shape");
    made.dtype = dtype(json::at(given, "dtype"));
    made.width = product(made.dims);
    if (made.dtype != CAVS_FLOAT32) throw json::Error{"an output is not float32", 0};
    return made;
}

Manifest manifest_of(const json::Value &given) {
    Manifest made;
    made.name = json::text(json::at(given, "name"), "name");
    made.arity = json::whole(json::at(given, "arity"), "arity");
    for (const auto &each : json::list(json::at(given, "inputs"), "inputs")) {
        made.inputs.push_back(input(each));
        for (std::size_t i = 0; i + 1 < made.inputs.size(); i++) {
            if (made.inputs[i].name == made.inputs.back().name) {
                throw json::Error{
                    "it has the input " + json::quoted(made.inputs[i].name) + " twice", 0};
            }
        }
    }
    for (const auto &each : json::list(json::at(given, "outputs"), "outputs")) {
        made.outputs.push_back(output(each));
    }
    const json::Value &target = json::at(given, "target");
    made.architecture = json::text(json::at(target, "architecture"), "architecture");
    for (const auto &each : json::list(json::at(target, "instructions"), "instructions")) {
        made.instructions.push_back(json::text(each, "instructions"));
    }
    if (const json::Value *spelling = given.find("spelling")) {
        made.lower = truth(*spelling, "lower");
        made.unescape = truth(*spelling, "unescape");
    }
    return made;
}

Stored stored(const std::string &name, const json::Value &entry, std::string_view numbers) {
    const std::string &type = json::text(json::at(entry, "dtype"), "dtype");
    if (type != "F32" && type != "I32" && type != "U32") throw json::Error{"dtype is " + type, 0};
    Stored made{name, json::wholes(json::at(entry, "shape"), "shape"), {}};
    auto range = json::wholes(json::at(entry, "data_offsets"), "data_offsets");
    auto size = static_cast<std::int64_t>(numbers.size());
    if (range.size() != 2 || range[0] < 0 || range[1] < range[0] || range[1] > size) {
        throw json::Error{name + " does not lie in the file", 0};
    }
    made.bytes = numbers.substr(static_cast<std::size_t>(range[0]),
                                static_cast<std::size_t>(range[1] - range[0]));
    if (made.bytes.size() % ELEMENT != 0 ||
        static_cast<std::int64_t>(made.bytes.size() / ELEMENT) != product(made.dims)) {
        throw json::Error{name + " has another size than its shape", 0};
    }
    return made;
}

}  // namespace

std::int64_t product(const std::vector<std::int64_t> &dims) {
    std::int64_t made = 1;
    for (std::int64_t extent : dims) {
        if (extent < 0 || (extent > 0 && made > MOST / extent)) {
            throw json::Error{"a shape is impossible", 0};
        }
        made *= extent;
    }
    return made;
}

std::string read_file(const std::string &path, cavs_status status) {
    std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rbe"));
    if (!file) fail(status, path, " cannot be read: ", reason(errno), ".");
    std::string made;
    std::size_t held = 0;
    do {  // the files of /proc do not say how long they are
        held = made.size();
        made.resize(held + (held < (1 << 16) ? 1 << 16 : held / 2));
        made.resize(held + std::fread(&made[held], 1, made.size() - held, file.get()));
    } while (made.size() > held);
    if (std::ferror(file.get()) != 0) fail(status, path, " cannot be read: ", reason(errno), ".");
    return made;
}

Folder::Folder(const std::string &path) {
    std::string where = path + "/" + MANIFEST;
    std::string content;
    try {
        content = read_file(where, CAVS_ERROR_FILE);
    } catch (Failure &failure) {
        failure.text = text(path, " is no exported model: ", failure.text,
                            " Make one by `tvm-cavs export RUN --out DIR`.");
        throw;
    }
    try {
        json::Value given = json::parse(content);
        check_format(where, given);
        manifest = manifest_of(given);
        const json::Value &entries = json::at(given, "files");
        for (std::size_t i = 0; i < entries.keys.size(); i++) {
            const std::string &name = entries.keys[i];
            if (name.empty() || name.find('/') != name.npos || name == "." || name == "..") {
                throw json::Error{"it names the file " + json::quoted(name), 0};
            }
            std::string held = read_file(text(path, "/", name), CAVS_ERROR_FILE);
            const std::string &wanted = json::text(json::at(entries.items[i], "sha256"), "sha256");
            std::string found = sha256(held);
            if (found != wanted) {
                fail(CAVS_ERROR_DAMAGED, path, "/", name,
                     " is not the file that was exported: its SHA-256 is ", found.substr(0, SHOWN),
                     "..., expected ", wanted.substr(0, SHOWN), "... .", AGAIN);
            }
            files.emplace(name, std::move(held));
        }
    } catch (const json::Error &error) {
        fail(CAVS_ERROR_DAMAGED, where, " is damaged: ", error.text, " (byte ", error.place, ").",
             AGAIN);
    }
}

const std::string &Folder::content(const char *name) const {
    auto found = files.find(name);
    if (found == files.end()) fail(CAVS_ERROR_DAMAGED, "the manifest names no ", name, ".", AGAIN);
    return found->second;
}

std::vector<Stored> read_tensors(const std::string &content, const char *name) {
    try {
        std::uint64_t length = 0;
        if (content.size() < LENGTH) throw json::Error{"it is too short", 0};
        for (std::size_t i = LENGTH; i-- > 0;) {
            length = length << 8 | static_cast<unsigned char>(content[i]);
        }
        if (length > content.size() - LENGTH) throw json::Error{"its header has no end", 0};
        std::string_view all = content;
        json::Value header = json::parse(all.substr(LENGTH, length));
        if (!header.is(json::Kind::object)) throw json::Error{"its header is no object", 0};
        std::vector<Stored> made;
        for (std::size_t i = 0; i < header.keys.size(); i++) {
            if (header.keys[i] == "__metadata__") continue;
            made.push_back(stored(header.keys[i], header.items[i], all.substr(LENGTH + length)));
        }
        return made;
    } catch (const json::Error &error) {
        fail(CAVS_ERROR_DAMAGED, name, " is no safetensors file of a model: ", error.text, ".");
    }
}

std::vector<std::string> read_vocabulary(const std::string &content, const char *name) {
    try {
        std::vector<std::string> made;
        json::Value given = json::parse(content);
        for (const auto &each : json::list(given, name)) made.push_back(json::text(each, "token"));
        return made;
    } catch (const json::Error &error) {
        fail(CAVS_ERROR_DAMAGED, name, " is no vocabulary: ", error.text, ".");
    }
}

std::string Manifest::spelled(std::string token) const {
    if (unescape) {
        auto found = ESCAPES.find(token);
        if (found != ESCAPES.end()) {
            token = found->second;
        } else {
            replace_all(token, "\\/", '/');
            replace_all(token, "\\*", '*');
        }
    }
    if (lower) {
        for (char &c : token) {
            if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        }
    }
    return token;
}

}  // namespace cavs::inside
