// A caller's batch -> arrays of int32 that were checked, and the level of every vertex.
#pragma once

#include <cstdint>
#include <deque>

#include "cavs.h"
#include "engine.hpp"
#include "memory.hpp"

namespace cavs::inside {

// An input of a batch, as kernels take it: where a vertex lacks it, -1 (int32) or 0 stands.
struct Given {
    const void *values = nullptr;           // null where no vertex has it
    const std::uint8_t *present = nullptr;  // zeros and ones
};

// What is read of batches, one at a time, in memory that is used again.
class Graph {
   public:
    // Take a batch in. Failure with CAVS_ERROR_ARGUMENT or CAVS_ERROR_GRAPH, naming the vertex.
    void read(const Engine &engine, const cavs_batch &batch, Budget &budget);

    std::int64_t n_vertices = 0, n_levels = 0;
    Array child_ptr, child, level;
    std::deque<Given> inputs;  // by their place in the manifest

   private:
    template <class Index>
    void read_slots(const cavs_batch &batch);
    void find_levels();
    [[noreturn]] void refuse_cycle(const std::int32_t *path, std::int64_t n,
                                   std::int32_t again) const;
    void check_arity(const Engine &engine) const;
    void read_input(const Named &read, const cavs_batch &batch, const std::string &model,
                    std::size_t i, Budget &budget);

    Array path_, cursor_;
    std::deque<Array> values_, present_;
};

}  // namespace cavs::inside
