#include "engine.hpp"

#include <algorithm>
#include <cstring>

#include "cpu.hpp"
#include "failure.hpp"

namespace cavs::inside {
namespace {

constexpr const char *PROGRAM = "program.json", *LIBRARY = "kernels.so",
                     *VALUES = "values.safetensors", *PARAMETERS = "parameters.safetensors",
                     *VOCABULARY = "vocabulary.json";
constexpr std::size_t MOST_LOOKUP_BITS = 16, MOST_BITS = 62;  // of masks

// A vector in memory that kernels can use; not empty.
template <class T>
void table(Array &to, DType dtype, const std::vector<T> &values) {
    to.shape(dtype, {std::max<std::int64_t>(1, static_cast<std::int64_t>(values.size()))});
    std::copy(values.begin(), values.end(), to.data<T>());
}

Host host_of(const Program &program, const Library &library) {
    auto kernel = [&](const char *name) {
        for (const auto &[key, symbol] : program.host) {
            if (key == name) return library.kernel(symbol);
        }
        fail(CAVS_ERROR_DAMAGED, PROGRAM, " names no kernel for ", name, ".");
    };
    return {kernel("slots"),         kernel("pull"),         kernel("sort"),
            kernel("below"),         kernel("child"),        kernel("take"),
            kernel("take_integers"), kernel("take_present"), kernel("take_rows"),
            kernel("segments"),      kernel("arrange"),      kernel("routine")};
}

// The folder, once it is known that its kernels may run.
const Folder &runnable(const Folder &folder) {
    require_cpu(folder.manifest.architecture, folder.manifest.instructions);
    return folder;
}

}  // namespace

Engine::Engine(const std::string &folder) : Engine(runnable(Folder(folder))) {}

Engine::Engine(const Folder &folder)
    : manifest(folder.manifest),
      program(read_program(folder.content(PROGRAM), PROGRAM)),
      library(folder.content(LIBRARY)),
      host(host_of(program, library)),
      n_spaces(static_cast<int>(std::count_if(program.spaces.begin(), program.spaces.end(),
                                              [](const Space &s) { return !s.kinds.empty(); }))),
      width(SLICE_COLUMNS + n_spaces),
      has_lookup(static_cast<std::size_t>(program.arity) + program.pulls.size() <=
                 MOST_LOOKUP_BITS),
      weights(program.buffers.size()) {
    check();
    rank_kinds();
    lay_out();
    write_routine();
    bind(folder);
    pack();
    if (!folder.has(VOCABULARY)) return;
    for (const std::string &token : read_vocabulary(folder.content(VOCABULARY), VOCABULARY)) {
        tokens.emplace(token, n_tokens++);
    }
}

// That the files fit each other.
void Engine::check() const {
    if (program.arity < 0 || program.arity != manifest.arity ||
        static_cast<std::size_t>(program.arity) + program.pulls.size() > MOST_BITS) {
        fail(CAVS_ERROR_DAMAGED, PROGRAM, " has ", program.arity, " slots, the manifest ",
             manifest.arity, ".");
    }
    for (const std::string &pull : program.pulls) {
        if (input(pull) < 0) fail(CAVS_ERROR_DAMAGED, "the manifest lacks the input ", pull, ".");
    }
    for (const Buffer &b : program.buffers) {
        bool named = b.role == Role::index || b.role == Role::choice || b.role == Role::input ||
                     b.role == Role::present;
        if (named && input(b.key) < 0) fail(CAVS_ERROR_DAMAGED, "nobody gives ", b.name, ".");
        bool counted = b.role <= Role::present;
        if (counted && (b.space < 0 || b.space >= n_spaces)) {
            fail(CAVS_ERROR_DAMAGED, b.name, " has no rows of vertices.");
        }
        if (b.role == Role::child && (b.slot < 0 || b.slot >= program.arity)) {
            fail(CAVS_ERROR_DAMAGED, b.name, " is of no slot.");
        }
    }
    for (const auto &[name, buffer] : program.outputs) {
        const Buffer &b = program.buffers[static_cast<std::size_t>(buffer)];
        auto found = std::find_if(manifest.outputs.begin(), manifest.outputs.end(),
                                  [&, &wanted = name](const Named &o) { return o.name == wanted; });
        bool fits = found != manifest.outputs.end() && b.role == Role::pushed && b.space >= 0 &&
                    std::max<std::int64_t>(1, b.ld) == found->width &&
                    b.dtype.code == FLOAT32.code && b.dtype.bits == FLOAT32.bits;
        if (!fits)
            fail(CAVS_ERROR_DAMAGED, "the output ", name, " is another one in the manifest.");
    }
    if (program.outputs.size() != manifest.outputs.size()) {
        fail(CAVS_ERROR_DAMAGED, PROGRAM, " has other outputs than the manifest.");
    }
}

int Engine::input(const std::string &name) const {
    for (std::size_t i = 0; i < manifest.inputs.size(); i++) {
        if (manifest.inputs[i].name == name) return static_cast<int>(i);
    }
    return -1;
}

std::int32_t Engine::rank_of(std::int64_t mask) const {
    auto found = number_.find(mask | program.maybe);
    if (found == number_.end()) return -1;
    return static_cast<std::int32_t>(program.rank[static_cast<std::size_t>(found->second)]);
}

void Engine::rank_kinds() {
    number_.insert(program.number.begin(), program.number.end());
    std::vector<std::int32_t> of(program.rank.size());
    for (std::size_t kind = 0; kind < of.size(); kind++) {
        of[static_cast<std::size_t>(program.rank[kind])] = static_cast<std::int32_t>(kind);
    }
    table(kind_of, INT32, of);
    if (!has_lookup) return;
    std::size_t n_bits = static_cast<std::size_t>(program.arity) + program.pulls.size();
    std::vector<std::int32_t> ranks(std::size_t{1} << n_bits);
    for (std::size_t mask = 0; mask < ranks.size(); mask++) {
        ranks[mask] = rank_of(static_cast<std::int64_t>(mask));
    }
    table(lookup, INT32, ranks);
}

// What batches have in common: `Spaces` of tvm_cavs/runtime/slices.py.
void Engine::lay_out() {
    std::vector<std::uint8_t> groups, uses, spaces;
    std::vector<std::int64_t> stage, base;
    for (const Group &g : program.groups) {
        groups.insert(groups.end(), g.member.begin(), g.member.end());
        stage.push_back(g.stage);
        for (int s = 0; s < n_spaces; s++) {
            uses.push_back(std::count(g.spaces.begin(), g.spaces.end(), s) > 0);
        }
    }
    for (int s = 0; s < n_spaces; s++) {
        const Space &space = program.spaces[static_cast<std::size_t>(s)];
        spaces.insert(spaces.end(), space.kinds.begin(), space.kinds.end());
        base.push_back(space.base);
        table(members.emplace_back(), UINT8, space.kinds);
    }
    table(of_group, UINT8, groups);
    table(of_use, UINT8, uses);
    table(of_space, UINT8, spaces);
    table(stages, INT64, stage);
    table(bases, INT64, base);
}

void Engine::write_routine() {
    std::vector<std::int64_t> groups = {0}, parts;
    for (const Group &g : program.groups) {
        for (const Step &step : g.steps) add_step(step);
        groups.push_back(groups.back() + static_cast<std::int64_t>(g.steps.size()));
        parts.push_back(g.most_rows);
    }
    table(routine.groups, INT64, groups);
    table(routine.parts, INT64, parts);
    table(routine.steps, INT64, steps_);
    table(routine.forms, INT64, forms_);
    table(routine.moves, INT64, moves_);
}

// A step's forms, frame and moves. Its arguments: the count of rows, for a product the level, where
// its rows begin in every space, and whole buffers.
void Engine::add_step(const Step &step) {
    constexpr std::size_t form_columns = 3, move_columns = 2, words = 2;
    auto size = [](const auto &all, std::size_t columns) {
        return static_cast<std::int64_t>(all.size() / columns);
    };
    auto first_form = size(forms_, form_columns), first_move = size(moves_, move_columns);
    auto begin = static_cast<std::int64_t>(routine.frame.size());
    for (std::size_t i = 0; i < step.functions.size(); i++) {
        Code code = library.kernel(step.functions[i]);
        auto address = static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(code));
        forms_.insert(forms_.end(), {step.limits[i], address, 0});
    }
    auto add = [this](Any argument) {
        routine.frame.insert(routine.frame.end(), {argument.type, argument.value});
        return routine.frame.size() - 1;
    };
    auto column = [&](std::int64_t number) {
        std::size_t word = add(argument(std::int64_t{0}));
        moves_.insert(moves_.end(), {static_cast<std::int64_t>(word), number});
    };
    column(COUNT);
    if (step.is_product) column(LEVEL);
    for (int space : step.starts) column(space < n_spaces ? SLICE_COLUMNS + space : ZERO);
    for (int buffer : step.buffers) {
        routine.buffers.emplace_back(add(argument(static_cast<Tensor *>(nullptr))), buffer);
    }
    auto end = static_cast<std::int64_t>(routine.frame.size());
    steps_.insert(steps_.end(),
                  {first_form, size(forms_, form_columns), first_move, size(moves_, move_columns),
                   begin, (end - begin) / std::int64_t{words}});
    routine.names.push_back(step.functions.back());
}

// Bring stored numbers to the buffers that have them.
void Engine::bind(const Folder &folder) {
    auto parameters = read_tensors(folder.content(PARAMETERS), PARAMETERS);
    std::vector<Stored> values;
    if (folder.has(VALUES)) values = read_tensors(folder.content(VALUES), VALUES);
    auto find = [](const std::vector<Stored> &all, const std::string &name) -> const Stored & {
        for (const Stored &each : all) {
            if (each.name == name) return each;
        }
        fail(CAVS_ERROR_DAMAGED, "no file has the numbers of ", name, ".");
    };
    auto copy = [&](int buffer, const Stored &from, DType dtype,
                    const std::vector<std::int64_t> &dims) {
        Array &to = weights[static_cast<std::size_t>(buffer)];
        to.shape(dtype, dims);
        if (to.n_bytes() != static_cast<std::int64_t>(from.bytes.size())) {
            fail(CAVS_ERROR_DAMAGED, from.name, " has ", from.bytes.size(), " bytes, expected ",
                 to.n_bytes(), ".");
        }
        if (!from.bytes.empty()) std::memcpy(to.data<char>(), from.bytes.data(), from.bytes.size());
    };
    for (std::size_t i = 0; i < program.buffers.size(); i++) {
        const Buffer &b = program.buffers[i];
        if (b.role != Role::weight || b.has_shape) continue;
        const Stored &from = find(parameters, b.key);
        auto whole = static_cast<std::int64_t>(from.bytes.size() / sizeof(float));
        copy(static_cast<int>(i), from, FLOAT32, b.is_flat ? std::vector{whole} : from.dims);
    }
    for (int i : program.values) {
        const Buffer &b = program.buffers[static_cast<std::size_t>(i)];
        if (!b.has_shape) fail(CAVS_ERROR_DAMAGED, b.name, " has no shape.");
        copy(i, find(values, b.name), b.dtype, b.dims);
    }
}

// Bring weights into the form in which products read them.
void Engine::pack() {
    for (const Pack &p : program.packs) {
        const Buffer &b = program.buffers[static_cast<std::size_t>(p.buffer)];
        Array &made = weights[static_cast<std::size_t>(p.buffer)];
        if (!b.has_shape) fail(CAVS_ERROR_DAMAGED, b.name, " has no shape.");
        made.shape(b.dtype, b.dims);
        std::vector<Any> args;
        for (int source : p.sources) {
            Array &from = weights[static_cast<std::size_t>(source)];
            if (from.tensor()->data == nullptr) {
                fail(CAVS_ERROR_DAMAGED, "nothing gives ",
                     program.buffers[static_cast<std::size_t>(source)].name, ".");
            }
            args.push_back(argument(from));
        }
        args.push_back(argument(made));
        Any result{};
        if (library.kernel(p.function)(nullptr, args.data(), static_cast<int>(args.size()),
                                       &result) != 0) {
            fail(CAVS_ERROR_DAMAGED, "the kernel ", p.function, " refused: ", library.said(), ".");
        }
    }
    for (std::size_t i = 0; i < program.buffers.size(); i++) {
        if (program.buffers[i].role == Role::weight && weights[i].tensor()->data == nullptr) {
            fail(CAVS_ERROR_DAMAGED, "nothing gives ", program.buffers[i].name, ".");
        }
    }
}

}  // namespace cavs::inside
