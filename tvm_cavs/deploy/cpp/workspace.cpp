#include "workspace.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "failure.hpp"

namespace cavs::inside {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

Workspace::Workspace(Engine &engine, std::int64_t limit)
    : engine_(engine), budget_{limit, 0}, own_(engine.program.buffers.size()) {
    const Program &p = engine.program;
    rows_of_.resize(p.spaces.size());
    result_.rows(INT64, 3, 0, budget_);
    failed_.rows(INT64, 2, 0, budget_);
    for (std::size_t i = 0; i < own_.size(); i++) {
        const Buffer &b = p.buffers[i];
        if (b.role == Role::weight || !b.has_shape) continue;
        own_[i].shape(b.dtype, b.dims);
        budget_.held += own_[i].n_bytes();
    }
    const std::vector<std::int64_t> &frame = engine.routine.frame;
    frames_.rows(INT64, static_cast<std::int64_t>(frame.size()), 0, budget_);
    std::copy(frame.begin(), frame.end(), frames_.data<std::int64_t>());
    for (const auto &[word, i] : engine.routine.buffers) {
        bool is_weight = p.buffers[at(i)].role == Role::weight;
        Array &array = is_weight ? engine.weights[at(i)] : own_[at(i)];
        frames_.data<std::int64_t>()[word] = argument(array).value;
    }
}

void Workspace::run(const cavs_batch &batch, const cavs_result *results, std::int32_t n_results,
                    std::int64_t limit) {
    budget_.limit = limit;
    graph_.read(engine_, batch, budget_);
    auto found = targets(batch, results, n_results);
    find_masks();
    sort();
    count_rows();
    fill();
    cut();
    make_room();
    run_routine();
    for (const Target &target : found) write(target);
}

std::vector<Workspace::Target> Workspace::targets(const cavs_batch &batch,
                                                  const cavs_result *results,
                                                  std::int32_t n_results) const {
    if (n_results < 0 || (results == nullptr && n_results > 0)) {
        fail(CAVS_ERROR_ARGUMENT, "results is NULL, or there are less than none.");
    }
    std::vector<Target> made;
    for (std::int32_t i = 0; i < n_results; i++) {
        const cavs_result &r = results[i];
        if (r.name == nullptr) fail(CAVS_ERROR_ARGUMENT, "result ", i, " has no name.");
        const auto &all = engine_.program.outputs;
        auto found =
            std::find_if(all.begin(), all.end(), [&](const auto &o) { return o.first == r.name; });
        if (found == all.end()) {
            std::string names;
            for (const auto &o : all) names += (names.empty() ? "" : ", ") + o.first;
            fail(CAVS_ERROR_ARGUMENT, "there is no output '", r.name, "'; there are ", names, ".");
        }
        const Buffer &b = engine_.program.buffers[at(found->second)];
        std::int64_t width = std::max<std::int64_t>(1, b.ld);
        bool fits = r.n_values / width >= batch.n_vertices;
        if (!fits || r.values == nullptr ||
            reinterpret_cast<std::uintptr_t>(r.values) % alignof(float)) {
            fail(CAVS_ERROR_ARGUMENT, "result '", r.name, "' has room for ",
                 r.values == nullptr ? 0 : r.n_values, " numbers; expected ", batch.n_vertices,
                 " times ", width, ", aligned.");
        }
        made.push_back({found->second, width, r.values});
    }
    return made;
}

template <class... Args>
void Workspace::kernel(const char *name, Code code, Args &&...args) {
    if (!call(code, std::forward<Args>(args)...)) {
        fail(CAVS_ERROR_KERNEL, "the kernel ", name, " refused: ", engine_.library.said(), ".");
    }
}

// What every vertex has, as bits: slots, then pulls.
void Workspace::find_masks() {
    std::int64_t n = graph_.n_vertices, arity = engine_.program.arity;
    mask_.rows(INT64, n, 0, budget_);
    children_.rows(INT32, n * arity, 0, budget_);
    kernel("slots", engine_.host.slots, n, arity, graph_.child_ptr, graph_.child, children_, mask_);
    for (std::size_t i = 0; i < engine_.program.pulls.size(); i++) {
        const Given &given = graph_.inputs[at(engine_.input(engine_.program.pulls[i]))];
        View present(given.present, BOOL, n, 0);
        kernel("pull", engine_.host.pull, n, arity + static_cast<std::int64_t>(i), present, mask_);
    }
}

// With more bits than a table is made for: masks become their places among those of the batch.
void Workspace::number_masks() {
    auto *mask = mask_.data<std::int64_t>();
    std::vector<std::int64_t> distinct(mask, mask + graph_.n_vertices);
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    masks_lookup_.rows(INT32, static_cast<std::int64_t>(distinct.size()), 0, budget_);
    for (std::size_t i = 0; i < distinct.size(); i++) {
        masks_lookup_.data<std::int32_t>()[i] = engine_.rank_of(distinct[i]);
        if (engine_.rank_of(distinct[i]) < 0) refuse_kinds();
    }
    for (std::int64_t v = 0; v < graph_.n_vertices; v++) {
        mask[v] = std::lower_bound(distinct.begin(), distinct.end(), mask[v]) - distinct.begin();
    }
}

// Vertices by level and kind.
void Workspace::sort() {
    std::int64_t n = graph_.n_vertices, n_kinds = engine_.program.n_kinds();
    std::int64_t n_keys = graph_.n_levels * n_kinds;
    if (!engine_.has_lookup) number_masks();
    Array &lookup = engine_.has_lookup ? engine_.lookup : masks_lookup_;
    for (Array *each : {&rank_, &row_, &order_, &kind_}) each->rows(INT32, n, 0, budget_);
    count_.rows(INT32, n_keys, 0, budget_);
    for (Array *each : {&cell_level_, &cell_kind_, &cell_count_}) {
        each->rows(INT64, std::min(n, n_keys), 0, budget_);
    }
    kernel("sort", engine_.host.sort, n, n_kinds, n_keys, graph_.level, lookup, engine_.kind_of,
           rank_, count_, row_, order_, kind_, mask_, cell_level_, cell_kind_, cell_count_,
           result_);
    n_cells_ = result_.data<std::int64_t>()[0];
    if (result_.data<std::int64_t>()[1] > 0) refuse_kinds();
    std::int64_t arity = engine_.program.arity;
    below_.rows(INT32, n * arity, 0, budget_);
    kernel("below", engine_.host.below, n, arity, order_, row_, children_, below_);
}

void Workspace::refuse_kinds() {
    const Program &p = engine_.program;
    const auto *mask = mask_.data<std::int64_t>();
    std::int64_t v = 0;
    while (engine_.rank_of(mask[v]) >= 0) v++;
    std::string slots, has;
    for (std::int64_t k = 0; k < p.arity; k++) {
        if ((mask[v] >> k & 1) != 0) slots += text(slots.empty() ? "" : ", ", k);
    }
    for (std::size_t i = 0; i < p.pulls.size(); i++) {
        if ((mask[v] >> (at(p.arity) + i) & 1) != 0) has += (has.empty() ? "" : ", ") + p.pulls[i];
    }
    fail(CAVS_ERROR_KIND, "vertex ", v, ": ", engine_.manifest.name,
         " was exported for the vertices of its data, among which none has children in slots ",
         slots.empty() ? "none" : slots, " and the inputs ", has.empty() ? "none" : has,
         ". Export it with data that have such vertices.");
}

// Rows of every space, with those before the first.
void Workspace::count_rows() {
    const auto *kind = cell_kind_.data<std::int64_t>(), *count = cell_count_.data<std::int64_t>();
    for (std::size_t s = 0; s < at(engine_.n_spaces); s++) {
        const Space &space = engine_.program.spaces[s];
        rows_of_[s] = space.base;
        for (std::int64_t c = 0; c < n_cells_; c++)
            rows_of_[s] += space.kinds[at(kind[c])] * count[c];
    }
}

// What kernels read of the graphs, in the rows of their spaces.
void Workspace::fill() {
    std::int64_t n = graph_.n_vertices, arity = engine_.program.arity;
    for (std::size_t i = 0; i < own_.size(); i++) {
        const Buffer &b = engine_.program.buffers[i];
        if (b.role > Role::present) continue;
        std::int64_t n_rows = rows_of_[at(b.space)];
        Array &member = engine_.members[at(b.space)], &to = own_[i];
        to.rows(b.dtype, n_rows, b.ld, budget_);
        if (b.role == Role::child) {
            kernel("child", engine_.host.child, n, arity, b.slot, kind_, below_, to, member);
        } else if (b.role == Role::present) {
            View present(graph_.inputs[at(engine_.input(b.key))].present, BOOL, n, 0);
            kernel("take_present", engine_.host.take_present, n, order_, kind_, present, to,
                   member);
        } else if (n_rows > 0) {
            fill_values(b, to, n_rows);
        }
    }
}

void Workspace::fill_values(const Buffer &b, Array &to, std::int64_t n_rows) {
    const void *given = graph_.inputs[at(engine_.input(b.key))].values;
    const Host &host = engine_.host;
    Array &member = engine_.members[at(b.space)];
    std::int64_t n = graph_.n_vertices;
    bool whole = b.dtype.code == INT32.code;
    std::int64_t n_numbers = n_rows * std::max<std::int64_t>(1, b.ld);
    if (given == nullptr && whole) {
        std::fill_n(to.data<std::int32_t>(), n_numbers, -1);
    } else if (given == nullptr) {
        std::fill_n(to.data<float>(), n_numbers, 0.0F);
    } else {
        View from(given, b.dtype, n, b.ld);
        if (b.ld == 0) {
            kernel("take", host.take, n, order_, kind_, from, to, member);
        } else {
            Code take = whole ? host.take_integers : host.take_rows;
            kernel("take_rows", take, n, b.ld, order_, kind_, from, to, member);
        }
    }
    if (b.role != Role::choice) return;
    auto *chosen = to.data<std::int32_t>();
    for (std::int64_t i = 0; i < n_numbers; i++) chosen[i] = std::max(chosen[i], 0);
}

// The slices of all groups, in the order in which they run.
void Workspace::cut() {
    auto n_groups = static_cast<std::int64_t>(engine_.program.groups.size());
    std::int64_t n_kinds = engine_.program.n_kinds(), n_spaces = engine_.n_spaces,
                 width = engine_.width;
    std::int64_t most = n_groups * n_cells_ + 1;
    slices_.rows(INT64, most * width, 0, budget_);
    sizes_.rows(INT64, n_groups, 0, budget_);
    slice_order_.rows(INT32, most, 0, budget_);
    slice_keys_.rows(INT64, 2 * (graph_.n_levels + 2), 0, budget_);
    kernel("segments", engine_.host.segments, n_groups, n_cells_, n_kinds, n_spaces, cell_level_,
           cell_kind_, cell_count_, engine_.bases, engine_.stages, slices_, sizes_,
           engine_.of_group, engine_.of_use, engine_.of_space);
    kernel("arrange", engine_.host.arrange, n_groups, n_groups, graph_.n_levels, width, slices_,
           sizes_, engine_.stages, slice_keys_, result_, slice_order_);
    n_slices_ = result_.data<std::int64_t>()[0];
    most_rows_ = result_.data<std::int64_t>()[2];
}

// Let buffers hold the batch; they only grow.
void Workspace::make_room() {
    const Program &p = engine_.program;
    for (std::size_t i = 0; i < own_.size(); i++) {
        const Buffer &b = p.buffers[i];
        if (b.space < 0 || (b.role != Role::values && b.role != Role::pushed)) continue;
        SpaceKind kind = p.spaces[at(b.space)].kind;
        std::int64_t n = kind == SpaceKind::scratch ? most_rows_
                         : kind == SpaceKind::parts ? p.n_parts
                                                    : rows_of_[at(b.space)];
        own_[i].rows(b.dtype, n, b.ld, budget_);
    }
}

// All kernel calls of the pass, in one.
void Workspace::run_routine() {
    Routine &r = engine_.routine;
    kernel("routine", engine_.host.routine, std::int64_t{0}, n_slices_, engine_.width, slice_order_,
           slices_, r.groups, r.parts, r.steps, r.forms, r.moves, frames_, failed_);
    std::int64_t step = failed_.data<std::int64_t>()[1];
    if (failed_.data<std::int64_t>()[0] == 0) return;
    fail(CAVS_ERROR_KERNEL, "the kernel ", r.names[at(step - 1)],
         " refused: ", engine_.library.said(), ".");
}

// Rows of an output in the order of the batch's vertices.
void Workspace::write(const Target &target) {
    const auto *from = own_[at(target.buffer)].data<float>();
    const auto *row = row_.data<std::int32_t>();
    for (std::int64_t v = 0; v < graph_.n_vertices; v++) {
        std::memcpy(target.to + v * target.width, from + row[v] * target.width,
                    at(target.width) * sizeof(float));
    }
}

}  // namespace cavs::inside
