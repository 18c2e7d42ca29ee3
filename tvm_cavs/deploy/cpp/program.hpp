// program.json: a compiled network without its code, as tvm_cavs/deploy/writing.py writes it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "memory.hpp"

namespace cavs::inside {

// What a buffer holds, as far as that decides who fills it (tvm_cavs/runtime/roles.py).
enum class Role {
    child,    // of a batch: rows of the children in slot `slot`
    index,    // an integer input, -1 where it is absent
    choice,   // the same with 0
    input,    // any other input
    present,  // 1.0 where there is an input, else 0.0
    values,   // of a workspace: what kernels compute
    pushed,   // the same, an output
    weight    // of the model: parameters and what is made of them
};

struct Buffer {
    Role role = Role::values;
    std::string name;        // what safetensors files call it
    std::string key;         // the input, field or parameter
    bool is_flat = false;    // a parameter as a vector
    std::int64_t slot = -1;  // of a child
    int space = -1;          // -1: no batch changes its size
    std::int64_t ld = 0;     // numbers of a row; 0: a vector
    DType dtype = FLOAT32;
    bool has_shape = false;
    std::vector<std::int64_t> dims;  // where no batch changes its size
};

enum class SpaceKind { rows, scratch, parts };

struct Space {
    SpaceKind kind = SpaceKind::rows;
    std::int64_t base = 0;
    std::vector<std::uint8_t>
        kinds;  // 1 for those that have rows in it; none for scratch and parts
};

struct Step {
    bool is_product = false;
    std::vector<std::string> functions;
    std::vector<std::int64_t> limits;  // functions[i] serves row counts from limits[i] on
    std::vector<int> starts;           // spaces
    std::vector<int> buffers;
};

struct Group {
    std::int64_t stage = 0;  // as kernels number them
    std::vector<std::uint8_t> member;
    std::vector<int> spaces;
    std::vector<Step> steps;
    std::int64_t most_rows = 0;
};

struct Pack {
    int buffer = 0;
    std::string function;
    std::vector<int> sources;
};

struct Program {
    std::int64_t arity = 0, maybe = 0, n_parts = 0;
    std::vector<std::string> pulls;
    std::vector<std::pair<std::int64_t, std::int64_t>> number;  // mask, kind
    std::vector<std::int64_t> rank;
    std::vector<std::pair<std::string, int>> outputs;  // name, buffer
    std::vector<std::pair<std::string, std::string>> host;
    std::vector<Group> groups;
    std::vector<Pack> packs;
    std::vector<int> values;
    std::vector<Space> spaces;  // those with kinds come first
    std::vector<Buffer> buffers;

    int n_kinds() const { return static_cast<int>(rank.size()); }
};

// Failure with CAVS_ERROR_DAMAGED where it is no program, or names what is not there.
Program read_program(const std::string &content, const char *name);

}  // namespace cavs::inside
