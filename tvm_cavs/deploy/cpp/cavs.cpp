// The C interface: a model is an engine, and workspaces for the calls that run at once.
#include "cavs.h"

#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "engine.hpp"
#include "failure.hpp"
#include "workspace.hpp"

namespace {

using cavs::inside::Engine;
using cavs::inside::fail;
using cavs::inside::Failure;
using cavs::inside::Named;
using cavs::inside::Workspace;

constexpr std::size_t LONGEST = 2048;  // bytes of a text

// Without memory of its own that could be refused, or have to be given back.
thread_local char last_error[LONGEST] = "";

cavs_status remember(cavs_status status, const char *text) {
    std::size_t n = std::min(std::strlen(text), LONGEST - 1);
    while (n > 0 && text[n] != '\0' && (text[n] & 0xC0) == 0x80) n--;  // no part of a character
    std::memcpy(last_error, text, n);
    last_error[n] = '\0';
    return status;
}

// What `act` does, with failures as the C interface has them.
template <class Act>
cavs_status guarded(const Act &act) noexcept {
    try {
        act();
        return CAVS_OK;
    } catch (const Failure &failure) {
        return remember(failure.status, failure.text.c_str());
    } catch (const std::bad_alloc &) {
        return remember(CAVS_ERROR_MEMORY, "the system gives no more memory. Give fewer graphs.");
    } catch (const std::exception &error) {
        return remember(CAVS_ERROR_KERNEL, error.what());
    }
}

// The cores that this process may use.
int n_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

}  // namespace

struct cavs_model {
    explicit cavs_model(const char *folder) : engine(folder), n_free(n_cores()) {}

    // A workspace that no other call has.
    std::unique_ptr<Workspace> take(std::int64_t &limit) {
        std::unique_lock<std::mutex> lock(mutex);
        freed.wait(lock, [this] { return n_free > 0; });
        n_free--;
        limit = most_bytes;
        if (idle.empty()) return nullptr;
        auto found = std::move(idle.back());
        idle.pop_back();
        return found;
    }

    // Let another call begin; `found` is kept if it is one.
    void give(std::unique_ptr<Workspace> found) noexcept {
        {
            std::lock_guard<std::mutex> lock(mutex);
            n_free++;
            try {
                if (found) idle.push_back(std::move(found));
            } catch (const std::bad_alloc &) {  // then it goes
            }
        }
        freed.notify_one();
    }

    Engine engine;
    std::mutex mutex;
    std::condition_variable freed;
    std::vector<std::unique_ptr<Workspace>> idle;
    std::int64_t most_bytes = 0;
    int n_free;
};

namespace {

// A call's place among those that run at once.
class Place {
   public:
    explicit Place(cavs_model &model) : model_(model), found_(model.take(limit_)) {}
    ~Place() { model_.give(std::move(found_)); }
    Place(const Place &) = delete;
    Place &operator=(const Place &) = delete;

    void run(const cavs_batch &batch, const cavs_result *results, std::int32_t n_results) {
        auto used = std::move(found_);  // one that failed is not kept
        if (!used) used = std::make_unique<Workspace>(model_.engine, limit_);
        used->run(batch, results, n_results, limit_);
        found_ = std::move(used);
    }

   private:
    cavs_model &model_;
    std::int64_t limit_ = 0;
    std::unique_ptr<Workspace> found_;
};

cavs_status describe(const cavs_model *model, const std::vector<Named> *all, std::int32_t i,
                     cavs_info *info) {
    return guarded([&] {
        if (model == nullptr || info == nullptr)
            fail(CAVS_ERROR_ARGUMENT, "model or info is NULL.");
        auto n = static_cast<std::int32_t>(all->size());
        if (i < 0 || i >= n)
            fail(CAVS_ERROR_ARGUMENT, "number ", i, " is out of range; there are ", n, ".");
        const Named &each = (*all)[static_cast<std::size_t>(i)];
        *info = {each.name.c_str(), each.kind.c_str(),
                 each.dims.data(),  static_cast<std::int32_t>(each.dims.size()),
                 each.dtype,        each.width,
                 each.limit};
    });
}

}  // namespace

extern "C" {

cavs_status cavs_load(const char *folder, cavs_model **model) {
    return guarded([&] {
        if (model == nullptr) fail(CAVS_ERROR_ARGUMENT, "model is NULL; expected where it goes.");
        *model = nullptr;
        if (folder == nullptr) fail(CAVS_ERROR_ARGUMENT, "folder is NULL.");
        *model = new cavs_model(folder);
    });
}

void cavs_free(cavs_model *model) { delete model; }

const char *cavs_name(const cavs_model *model) {
    return model == nullptr ? "" : model->engine.manifest.name.c_str();
}

int32_t cavs_arity(const cavs_model *model) {
    return model == nullptr ? 0 : static_cast<int32_t>(model->engine.program.arity);
}

int32_t cavs_n_inputs(const cavs_model *model) {
    return model == nullptr ? 0 : static_cast<int32_t>(model->engine.manifest.inputs.size());
}

int32_t cavs_n_outputs(const cavs_model *model) {
    return model == nullptr ? 0 : static_cast<int32_t>(model->engine.manifest.outputs.size());
}

cavs_status cavs_input(const cavs_model *model, int32_t i, cavs_info *info) {
    return describe(model, model == nullptr ? nullptr : &model->engine.manifest.inputs, i, info);
}

cavs_status cavs_output(const cavs_model *model, int32_t i, cavs_info *info) {
    return describe(model, model == nullptr ? nullptr : &model->engine.manifest.outputs, i, info);
}

int32_t cavs_n_tokens(const cavs_model *model) {
    return model == nullptr ? 0 : model->engine.n_tokens;
}

int32_t cavs_token(const cavs_model *model, const char *token) {
    if (model == nullptr || token == nullptr || model->engine.n_tokens == 0) return -1;
    int32_t number = -1;
    cavs_status status = guarded([&] {
        auto found = model->engine.tokens.find(model->engine.manifest.spelled(token));
        number = found == model->engine.tokens.end() ? 0 : found->second;
    });
    return status == CAVS_OK ? number : -1;
}

cavs_status cavs_limit_memory(cavs_model *model, int64_t n_bytes) {
    return guarded([&] {
        if (model == nullptr) fail(CAVS_ERROR_ARGUMENT, "model is NULL.");
        if (n_bytes < 0) fail(CAVS_ERROR_ARGUMENT, "n_bytes is ", n_bytes, "; expected 0 or more.");
        std::lock_guard<std::mutex> lock(model->mutex);
        model->most_bytes = n_bytes;
        model->idle.clear();  // which may hold more
    });
}

void cavs_release(cavs_model *model) {
    if (model == nullptr) return;
    std::vector<std::unique_ptr<Workspace>> idle;
    std::lock_guard<std::mutex> lock(model->mutex);
    idle.swap(model->idle);
}

cavs_status cavs_run(cavs_model *model, const cavs_batch *batch, const cavs_result *results,
                     int32_t n_results) {
    return guarded([&] {
        if (model == nullptr || batch == nullptr)
            fail(CAVS_ERROR_ARGUMENT, "model or batch is NULL.");
        Place(*model).run(*batch, results, n_results);
    });
}

const char *cavs_last_error(void) { return last_error; }

const char *cavs_status_name(cavs_status status) {
    static constexpr const char *names[] = {
        "CAVS_OK",           "CAVS_ERROR_ARGUMENT", "CAVS_ERROR_FILE",  "CAVS_ERROR_DAMAGED",
        "CAVS_ERROR_NEWER",  "CAVS_ERROR_CPU",      "CAVS_ERROR_GRAPH", "CAVS_ERROR_KIND",
        "CAVS_ERROR_MEMORY", "CAVS_ERROR_KERNEL"};
    auto i = static_cast<std::size_t>(status);
    return i < sizeof names / sizeof *names ? names[i] : "unknown";
}

}  // extern "C"
