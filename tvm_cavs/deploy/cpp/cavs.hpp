// cavs.h for C++: what is loaded is freed, what fails is thrown, arrays are vectors.
//
//     cavs::Model model("exported");
//     cavs::Batch batch(model);
//     batch.add({});                     // vertex 0, a leaf
//     batch.add({});                     // vertex 1
//     batch.add({0, 1});                 // vertex 2, their parent
//     batch.input("word").integers = {7, 2, 0};
//     batch.input("word").present = {1, 1, 0};
//     std::vector<cavs::Output> outputs = model.run(batch);
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cavs.h"

namespace cavs {

class Error : public std::runtime_error {
   public:
    explicit Error(cavs_status status) : std::runtime_error(cavs_last_error()), status_(status) {}
    cavs_status status() const noexcept { return status_; }

   private:
    cavs_status status_;
};

inline void check(cavs_status status) {
    if (status != CAVS_OK) throw Error(status);
}

// An input of all vertices of a batch; only the vector of its dtype is used.
struct Input {
    cavs_info info;
    std::vector<std::int32_t> integers;  // [n_vertices, dims...]
    std::vector<float> numbers;
    std::vector<std::uint8_t> present;  // [n_vertices]; empty: all vertices have it
};

struct Output {
    cavs_info info;
    std::vector<float> values;  // [n_vertices, dims...]
};

class Batch;

// A loaded model; threads may share it.
class Model {
   public:
    explicit Model(const std::string &folder) : model_(load(folder), cavs_free) {
        for (std::int32_t i = 0; i < cavs_n_inputs(get()); i++)
            check(cavs_input(get(), i, &add(inputs_)));
        for (std::int32_t i = 0; i < cavs_n_outputs(get()); i++) {
            check(cavs_output(get(), i, &add(outputs_)));
        }
    }

    cavs_model *get() const noexcept { return model_.get(); }
    std::string name() const { return cavs_name(get()); }
    std::int32_t arity() const noexcept { return cavs_arity(get()); }
    const std::vector<cavs_info> &inputs() const noexcept { return inputs_; }
    const std::vector<cavs_info> &outputs() const noexcept { return outputs_; }
    // A token's number; 0 for an unknown one, -1 without a vocabulary.
    std::int32_t token(const std::string &token) const noexcept {
        return cavs_token(get(), token.c_str());
    }
    void limit_memory(std::int64_t n_bytes) { check(cavs_limit_memory(get(), n_bytes)); }
    void release() noexcept { cavs_release(get()); }

    // All outputs.
    std::vector<Output> run(const Batch &batch) const;

   private:
    static cavs_model *load(const std::string &folder) {
        cavs_model *made = nullptr;
        check(cavs_load(folder.c_str(), &made));
        return made;
    }

    static cavs_info &add(std::vector<cavs_info> &to) {
        to.emplace_back();
        return to.back();
    }

    std::unique_ptr<cavs_model, void (*)(cavs_model *)> model_;
    std::vector<cavs_info> inputs_, outputs_;
};

// Graphs, one after the other.
class Batch {
   public:
    explicit Batch(const Model &model) {
        for (const cavs_info &info : model.inputs()) inputs_.push_back({info, {}, {}, {}});
    }

    std::int64_t n_vertices() const noexcept {
        return static_cast<std::int64_t>(child_ptr_.size()) - 1;
    }

    // Another vertex: the numbers of its children, -1 for an empty slot.
    void add(const std::vector<std::int64_t> &children) {
        child_.insert(child_.end(), children.begin(), children.end());
        child_ptr_.push_back(static_cast<std::int64_t>(child_.size()));
    }

    // The input so called, to be filled; one that the model does not read is an error.
    Input &input(const std::string &name) {
        for (Input &each : inputs_) {
            if (name == each.info.name) return each;
        }
        throw std::invalid_argument("the model reads no input " + name);
    }
    std::vector<Input> &inputs() noexcept { return inputs_; }

    const std::vector<std::int64_t> &child_ptr() const noexcept { return child_ptr_; }
    const std::vector<std::int64_t> &child() const noexcept { return child_; }
    const std::vector<Input> &inputs() const noexcept { return inputs_; }

   private:
    std::vector<std::int64_t> child_ptr_{0}, child_;
    std::vector<Input> inputs_;
};

inline std::vector<Output> Model::run(const Batch &batch) const {
    auto n = static_cast<std::size_t>(batch.n_vertices());
    std::vector<cavs_values> values;
    for (const Input &each : batch.inputs()) {
        bool whole = each.info.dtype == CAVS_INT32;
        if (!each.present.empty() && each.present.size() != n) {
            throw std::invalid_argument(std::string("present of ") + each.info.name +
                                        ": one a vertex");
        }
        const void *data = each.numbers.data();
        if (whole) data = each.integers.data();
        std::size_t size = whole ? each.integers.size() : each.numbers.size();
        values.push_back({each.info.name, data, static_cast<std::int64_t>(size), each.info.dtype,
                          each.present.empty() ? nullptr : each.present.data()});
    }
    std::vector<Output> made;
    std::vector<cavs_result> results;
    for (const cavs_info &info : outputs_) {
        made.push_back({info, std::vector<float>(n * static_cast<std::size_t>(info.width))});
    }
    for (Output &each : made) {
        results.push_back(
            {each.info.name, each.values.data(), static_cast<std::int64_t>(each.values.size())});
    }
    cavs_batch given = {batch.n_vertices(),
                        static_cast<std::int64_t>(batch.child().size()),
                        batch.child_ptr().data(),
                        batch.child().data(),
                        64,
                        static_cast<std::int32_t>(values.size()),
                        values.data()};
    check(cavs_run(get(), &given, results.data(), static_cast<std::int32_t>(results.size())));
    return made;
}

}  // namespace cavs
