#include "graph.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "failure.hpp"

namespace cavs::inside {
namespace {

constexpr std::int64_t MOST = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t UNSEEN = -1, OPEN = -2;  // levels of vertices while levels are found
constexpr std::int64_t MOST_SHOWN = 12;         // vertices of a cycle
constexpr const char *SMALLER = " Give fewer graphs.";

[[noreturn]] void refuse(const char *what, std::int64_t n) {
    fail(CAVS_ERROR_GRAPH, "a batch of ", n, " ", what, ": expected at most ", MOST, ".", SMALLER);
}

template <class T>
bool is_aligned(const void *pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % alignof(T) == 0;
}

const char *name_of(std::int32_t dtype) {
    return dtype == CAVS_INT32 ? "int32" : dtype == CAVS_FLOAT32 ? "float32" : "no dtype";
}

std::string type_of(cavs_dtype dtype, const std::vector<std::int64_t> &dims) {
    std::string made = name_of(dtype);
    for (std::size_t i = 0; i < dims.size(); i++) {
        made += (i == 0 ? "[" : "x") + std::to_string(dims[i]) + (i + 1 == dims.size() ? "]" : "");
    }
    return made;
}

// The first vertex that has an integer out of range, or -1.
std::int64_t first_wrong(const Named &read, const Given &given, std::int64_t n) {
    if (read.dtype != CAVS_INT32 || (!read.dims.empty() && read.limit < 0)) return -1;
    std::int64_t most = read.limit < 0 ? MOST : std::min(MOST, read.limit - 1);
    const auto *values = static_cast<const std::int32_t *>(given.values);
    for (std::int64_t v = 0; v < n; v++) {
        for (std::int64_t j = v * read.width; j < (v + 1) * read.width; j++) {
            if (given.present[v] != 0 && (values[j] < 0 || values[j] > most)) return v;
        }
    }
    return -1;
}

template <class Number>
void copy_present(const void *from, Array &to, const std::uint8_t *present, std::int64_t n,
                  std::int64_t width, Number absent) {
    const auto *given = static_cast<const Number *>(from);
    auto *made = to.data<Number>();
    for (std::int64_t v = 0; v < n; v++) {
        for (std::int64_t j = v * width; j < (v + 1) * width; j++) {
            made[j] = present[v] != 0 ? given[j] : absent;
        }
    }
}

}  // namespace

void Graph::read(const Engine &engine, const cavs_batch &batch, Budget &budget) {
    std::int64_t n = batch.n_vertices, n_slots = batch.n_slots;
    if (n < 1) fail(CAVS_ERROR_GRAPH, "the batch is empty; expected at least one vertex.");
    if (n > MOST) refuse("vertices", n);
    if (n_slots < 0) fail(CAVS_ERROR_ARGUMENT, "n_slots is ", n_slots, "; expected 0 or more.");
    if (n_slots > MOST) refuse("slots", n_slots);
    if (n * std::max<std::int64_t>(1, engine.program.arity) > MOST) {
        refuse("slots, those of a vertex times vertices,", n * engine.program.arity);
    }
    if (batch.child_ptr == nullptr || (batch.child == nullptr && n_slots > 0)) {
        fail(CAVS_ERROR_ARGUMENT, "child_ptr or child is NULL.");
    }
    if (batch.n_inputs < 0 || (batch.inputs == nullptr && batch.n_inputs > 0)) {
        fail(CAVS_ERROR_ARGUMENT, "inputs is NULL, or there are less than none.");
    }
    n_vertices = n;
    child_ptr.rows(INT32, n + 1, 0, budget);
    child.rows(INT32, n_slots, 0, budget);
    for (Array *each : {&level, &path_, &cursor_}) each->rows(INT32, n, 0, budget);
    if (batch.index_bits == 32) {
        read_slots<std::int32_t>(batch);
    } else if (batch.index_bits == 64) {
        read_slots<std::int64_t>(batch);
    } else {
        fail(CAVS_ERROR_ARGUMENT, "index_bits is ", batch.index_bits, "; expected 32 or 64.");
    }
    find_levels();
    check_arity(engine);
    const Manifest &m = engine.manifest;
    while (inputs.size() < m.inputs.size()) {
        inputs.emplace_back();
        values_.emplace_back();
        present_.emplace_back();
    }
    for (std::size_t i = 0; i < m.inputs.size(); i++)
        read_input(m.inputs[i], batch, m.name, i, budget);
}

// Copy and check the pointers to slots, and the children in them.
template <class Index>
void Graph::read_slots(const cavs_batch &batch) {
    if (!is_aligned<Index>(batch.child_ptr) || !is_aligned<Index>(batch.child)) {
        fail(CAVS_ERROR_ARGUMENT, "child_ptr or child is not aligned to its integers.");
    }
    const auto *ptr = static_cast<const Index *>(batch.child_ptr);
    const auto *given = static_cast<const Index *>(batch.child);
    auto *to_ptr = child_ptr.data<std::int32_t>(), *to = child.data<std::int32_t>();
    std::int64_t n = n_vertices;
    if (ptr[0] != 0 || ptr[n] != batch.n_slots) {
        fail(CAVS_ERROR_GRAPH, "child_ptr must rise from 0 to ", batch.n_slots, ", got ", ptr[0],
             " to ", ptr[n], ".");
    }
    to_ptr[0] = 0;
    for (std::int64_t v = 0; v < n; v++) {
        if (ptr[v + 1] < ptr[v] || ptr[v + 1] > batch.n_slots) {
            fail(CAVS_ERROR_GRAPH, "vertex ", v, ": child_ptr must rise from 0 to ", batch.n_slots,
                 ", and goes from ", ptr[v], " to ", ptr[v + 1], ".");
        }
        to_ptr[v + 1] = static_cast<std::int32_t>(ptr[v + 1]);
        for (Index slot = ptr[v]; slot < ptr[v + 1]; slot++) {
            Index c = given[slot];
            if (c < -1 || c >= n) {
                fail(CAVS_ERROR_GRAPH, "vertex ", v, ": child ", c, " in slot ", slot - ptr[v],
                     " is out of range; expected 0..", n - 1, ", or -1 for an empty slot.");
            }
            if (c == v) {
                fail(CAVS_ERROR_GRAPH, "vertex ", v, " is its own child (self-loop in slot ",
                     slot - ptr[v], ").");
            }
            to[slot] = static_cast<std::int32_t>(c);
        }
    }
}

// Depth first, on a path of our own: 0 without children, else 1 + the largest of a child.
void Graph::find_levels() {
    const auto *ptr = child_ptr.data<std::int32_t>(), *below = child.data<std::int32_t>();
    auto *found = level.data<std::int32_t>(), *path = path_.data<std::int32_t>();
    auto *cursor = cursor_.data<std::int32_t>();
    std::fill_n(found, n_vertices, UNSEEN);
    std::int32_t highest = 0;
    for (std::int32_t first = 0; first < n_vertices; first++) {
        if (found[first] != UNSEEN) continue;
        std::int64_t depth = 0;
        std::int32_t enter = first;
        while (true) {
            if (enter != UNSEEN) {
                found[enter] = OPEN;
                cursor[enter] = ptr[enter];
                path[depth++] = enter;
                enter = UNSEEN;
            }
            std::int32_t v = path[depth - 1];
            for (; cursor[v] < ptr[v + 1] && enter == UNSEEN; cursor[v]++) {
                std::int32_t c = below[cursor[v]];
                if (c < 0) continue;
                if (found[c] == OPEN) refuse_cycle(path, depth, c);
                if (found[c] == UNSEEN) enter = c;
            }
            if (enter != UNSEEN) continue;
            std::int32_t made = 0;
            for (std::int32_t slot = ptr[v]; slot < ptr[v + 1]; slot++) {
                if (below[slot] >= 0) made = std::max(made, found[below[slot]] + 1);
            }
            found[v] = made;
            highest = std::max(highest, made);
            if (--depth == 0) break;
        }
    }
    n_levels = std::int64_t{highest} + 1;
}

void Graph::refuse_cycle(const std::int32_t *path, std::int64_t n, std::int32_t again) const {
    const std::int32_t *begin = std::find(path, path + n, again);
    std::int64_t length = path + n - begin;
    std::string shown;
    for (std::int64_t i = 0; i < length; i++) {
        if (length > MOST_SHOWN && i == MOST_SHOWN / 2) {
            shown += text("... (", length - MOST_SHOWN, " more) ... -> ");
            i = length - MOST_SHOWN / 2;
        }
        shown += text(begin[i], " -> ");
    }
    fail(CAVS_ERROR_GRAPH, "the batch has a cycle: ", shown, again,
         " (vertex -> its child). Expected directed acyclic graphs.");
}

void Graph::check_arity(const Engine &engine) const {
    const auto *ptr =
        static_cast<const std::int32_t *>(const_cast<Array &>(child_ptr).tensor()->data);
    for (std::int64_t v = 0; v < n_vertices; v++) {
        std::int64_t n = ptr[v + 1] - ptr[v];
        if (n > engine.program.arity) {
            fail(CAVS_ERROR_GRAPH, "vertex ", v, " has ", n, " children, but ",
                 engine.manifest.name, " gathers from ", engine.program.arity,
                 "; export it with `arity` of the most children, or binarise the graphs.");
        }
    }
}

void Graph::read_input(const Named &read, const cavs_batch &batch, const std::string &model,
                       std::size_t i, Budget &budget) {
    const cavs_values *from = nullptr;
    std::string names;
    for (std::int32_t j = 0; j < batch.n_inputs; j++) {
        const cavs_values &each = batch.inputs[j];
        if (each.name == nullptr) fail(CAVS_ERROR_ARGUMENT, "input ", j, " has no name.");
        names += (names.empty() ? "" : ", ") + std::string(each.name);
        if (read.name != each.name) continue;
        if (from != nullptr) fail(CAVS_ERROR_ARGUMENT, "input ", read.name, " is given twice.");
        from = &each;
    }
    if (from == nullptr) {
        fail(CAVS_ERROR_GRAPH, model, " pulls '", read.name,
             "', which the batch does not have; it has ", names.empty() ? "no inputs" : names, ".");
    }
    std::int64_t n = n_vertices, n_present = 0;
    present_[i].rows(BOOL, n, 0, budget);
    auto *present = present_[i].data<std::uint8_t>();
    for (std::int64_t v = 0; v < n; v++) {
        present[v] = from->present == nullptr || from->present[v] != 0;
        n_present += present[v];
    }
    inputs[i] = {nullptr, present};
    if (read.dtype == CAVS_NONE || n_present == 0) return;
    std::int64_t width = read.width;
    bool fits = (width == 0 || n <= (std::int64_t{1} << 60) / width) && from->n_values == n * width;
    if (from->dtype != read.dtype || !fits) {
        fail(CAVS_ERROR_GRAPH, model, " pulls '", read.name, "' as ",
             type_of(read.dtype, read.dims), "; the batch gives ", from->n_values, " numbers of ",
             name_of(from->dtype), " for ", n, " vertices.");
    }
    if (from->values == nullptr || !is_aligned<std::int32_t>(from->values)) {
        fail(CAVS_ERROR_ARGUMENT, "the values of input ", read.name, " are NULL, or not aligned.");
    }
    inputs[i].values = from->values;
    std::int64_t v = first_wrong(read, inputs[i], n);
    if (v >= 0) {
        const auto *values = static_cast<const std::int32_t *>(from->values) + v * width;
        std::string shown;
        for (std::int64_t j = 0; j < std::min<std::int64_t>(width, MOST_SHOWN); j++) {
            shown += text(j == 0 ? "" : " ", values[j]);
        }
        fail(CAVS_ERROR_GRAPH, "vertex ", v, ": input '", read.name, "' is ", shown, "; ", model,
             " takes ", read.limit < 0 ? "0 or more" : text("0..", read.limit - 1), ".");
    }
    if (n_present == n) return;
    // What stands where a vertex lacks the input is read too: by kernels that then mask it.
    bool whole = read.dtype == CAVS_INT32;
    values_[i].rows(whole ? INT32 : FLOAT32, n * std::max<std::int64_t>(1, width), 0, budget);
    if (whole) {
        copy_present<std::int32_t>(from->values, values_[i], present, n, width, -1);
    } else {
        copy_present<float>(from->values, values_[i], present, n, width, 0.0F);
    }
    inputs[i].values = values_[i].data<void>();
}

}  // namespace cavs::inside
