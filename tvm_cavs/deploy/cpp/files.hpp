// The files of an exported folder: all are there and those that were exported; what the manifest
// says.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cavs.h"

namespace cavs::inside {

// The whole file; Failure with `status` if it cannot be read.
std::string read_file(const std::string &path, cavs_status status);

// An input that vertices may have, or an output that they give.
struct Named {
    std::string name, kind;
    std::vector<std::int64_t> dims;
    cavs_dtype dtype = CAVS_NONE;
    std::int64_t width = 1, limit = -1;
};

struct Manifest {
    std::string name, architecture;
    std::int64_t arity = 0;
    std::vector<Named> inputs, outputs;
    std::vector<std::string> instructions;
    bool lower = false, unescape = false;  // what is done to a token before it is looked up

    // A token as the data were spelled that the model learned from: tvm_cavs/data/spelling.py. Of
    // small letters it makes those of A to Z alone.
    std::string spelled(std::string token) const;
};

struct Folder {
    Manifest manifest;
    std::map<std::string, std::string> files;  // contents by name

    // Failure with CAVS_ERROR_FILE, _DAMAGED or _NEWER.
    explicit Folder(const std::string &path);

    bool has(const char *name) const { return files.count(name) > 0; }
    // The content of a file that must be there.
    const std::string &content(const char *name) const;
};

// An array of a safetensors file.
struct Stored {
    std::string name;
    std::vector<std::int64_t> dims;
    std::string_view bytes;  // of float32, int32 or uint32
};

// All arrays of a file; `name` is for messages.
std::vector<Stored> read_tensors(const std::string &content, const char *name);

// Tokens in the order of their numbers.
std::vector<std::string> read_vocabulary(const std::string &content, const char *name);

// The product of extents, which are 0 or more; Failure where it is not a number of 62 bits.
std::int64_t product(const std::vector<std::int64_t> &dims);

}  // namespace cavs::inside
