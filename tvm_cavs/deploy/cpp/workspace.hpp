// What one call at a time writes to: a batch's plan and the values of its vertices, in memory that
// is kept for the next call. It does what tvm_cavs/runtime does, by the same compiled kernels.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "cavs.h"
#include "engine.hpp"
#include "graph.hpp"
#include "memory.hpp"

namespace cavs::inside {

class Workspace {
   public:
    Workspace(Engine &engine, std::int64_t limit);

    // Run a batch and write the results. After a Failure the workspace is not to be used again.
    void run(const cavs_batch &batch, const cavs_result *results, std::int32_t n_results,
             std::int64_t limit);

   private:
    // Where an output goes.
    struct Target {
        int buffer;
        std::int64_t width;
        float *to;
    };

    template <class... Args>
    void kernel(const char *name, Code code, Args &&...args);

    std::vector<Target> targets(const cavs_batch &batch, const cavs_result *results,
                                std::int32_t n_results) const;
    void find_masks();
    void number_masks();
    void sort();
    [[noreturn]] void refuse_kinds();
    void count_rows();
    void fill();
    void fill_values(const Buffer &b, Array &to, std::int64_t n_rows);
    void cut();
    void make_room();
    void run_routine();
    void write(const Target &target);

    Engine &engine_;
    Budget budget_;
    Graph graph_;
    // the plan: names as in tvm_cavs/runtime/planner.py and slices.py
    Array mask_, children_, below_, count_, rank_, row_, order_, kind_, cell_level_, cell_kind_,
        cell_count_, result_, masks_lookup_, slices_, sizes_, slice_order_, slice_keys_, frames_,
        failed_;
    std::int64_t n_cells_ = 0, n_slices_ = 0, most_rows_ = 0;
    std::vector<std::int64_t> rows_of_;  // by space
    std::deque<Array> own_;              // by buffer; those of weights stay empty
};

}  // namespace cavs::inside
