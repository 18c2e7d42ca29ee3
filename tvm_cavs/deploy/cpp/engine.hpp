// A loaded model: kernels, weights, and the tables by which one compiled call runs a whole pass.
// Nothing of it changes after it was made, so any number of threads may use it.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "files.hpp"
#include "library.hpp"
#include "memory.hpp"
#include "program.hpp"

namespace cavs::inside {

// Columns of a slice, as tvm_cavs/runtime/tables.py has them; its first row in every space follows.
constexpr std::int64_t ZERO = 0, LEVEL = 1, COUNT = 2, SLICE_COLUMNS = 4;

// The kernels that plan a batch, and the one that runs it.
struct Host {
    Code slots, pull, sort, below, child, take, take_integers, take_present, take_rows, segments,
        arrange, routine;
};

// The calls of a pass: see `Routine` of tvm_cavs/runtime/routine.py.
struct Routine {
    Array groups, parts, steps, forms, moves;
    std::vector<std::int64_t> frame;                   // arguments of all steps, two words each
    std::vector<std::pair<std::size_t, int>> buffers;  // word of the frame, what goes there
    std::vector<std::string> names;                    // of the steps, for messages
};

class Engine {
   public:
    explicit Engine(const std::string &folder);

    // Where a mask's kind stands among the kinds of a level, or -1.
    std::int32_t rank_of(std::int64_t mask) const;
    // The place of an input among those of the manifest, or -1.
    int input(const std::string &name) const;

    Manifest manifest;
    Program program;
    Library library;
    Host host;
    int n_spaces;        // of kinds
    std::int64_t width;  // integers of a slice
    bool has_lookup;     // whether ranks are in a table by mask
    Array lookup, kind_of, stages, bases, of_group, of_use, of_space;
    std::deque<Array> members;  // by space, the kinds that have rows in it
    std::deque<Array> weights;  // by buffer; those of other roles stay empty
    Routine routine;
    std::unordered_map<std::string, std::int32_t> tokens;
    std::int32_t n_tokens = 0;

   private:
    explicit Engine(const Folder &folder);

    void check() const;
    void rank_kinds();
    void lay_out();
    void write_routine();
    void add_step(const Step &step);
    void bind(const Folder &folder);
    void pack();

    std::unordered_map<std::int64_t, std::int64_t> number_;
    std::vector<std::int64_t> steps_, forms_, moves_;  // until the routine is written
};

}  // namespace cavs::inside
