#include "memory.hpp"

#include <algorithm>
#include <cstdlib>

#include "failure.hpp"

namespace cavs::inside {
namespace {

constexpr std::int64_t ALIGNMENT = 64, MOST_BYTES = std::int64_t{1} << 56;
constexpr std::int64_t GROWTH = 4;  // an array that grows gets room for one more in so many

std::int64_t bytes_of(DType dtype, const std::int64_t *dims, int n_dims) {
    std::int64_t made = dtype.bits / 8;
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] > 0 && made > MOST_BYTES / dims[i]) {
            fail(CAVS_ERROR_MEMORY, "a buffer of more than ", MOST_BYTES,
                 " bytes. Give fewer graphs.");
        }
        made *= dims[i];
    }
    return made;
}

}  // namespace

void Array::Free::operator()(void *memory) const { std::free(*(static_cast<void **>(memory) - 1)); }

void Array::allocate(DType dtype, const std::int64_t *dims, int n_dims) {
    std::int64_t n = bytes_of(dtype, dims, n_dims);
    memory_.reset();  // before more is taken
    tensor_.data = nullptr;
    n_bytes_ = 0;
    // calloc: pages of large zeros are taken when they are touched, which some never are
    void *raw = std::calloc(static_cast<std::size_t>(n + 2 * ALIGNMENT), 1);
    if (raw == nullptr) {
        dims_[0] = 0;
        fail(CAVS_ERROR_MEMORY, "a buffer needs ", n,
             " bytes, which the system does not give. Give fewer graphs.");
    }
    auto at = reinterpret_cast<std::uintptr_t>(raw);
    std::uintptr_t to = (at + 2 * ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *begin = static_cast<char *>(raw) + (to - at);
    *(static_cast<void **>(begin) - 1) = raw;
    memory_.reset(begin);
    n_bytes_ = n;
    tensor_.data = begin;
    tensor_.dtype = dtype;
    tensor_.n_dims = n_dims;
    std::int64_t stride = 1;
    for (int i = n_dims; i-- > 0;) {
        dims_[static_cast<std::size_t>(i)] = dims[i];
        strides_[static_cast<std::size_t>(i)] = stride;
        stride *= dims[i];
    }
}

void Array::shape(DType dtype, const std::vector<std::int64_t> &dims) {
    if (dims.size() > MOST_DIMS) fail(CAVS_ERROR_DAMAGED, "an array has ", dims.size(), " axes.");
    allocate(dtype, dims.data(), static_cast<int>(dims.size()));
}

void Array::rows(DType dtype, std::int64_t n_rows, std::int64_t ld, Budget &budget) {
    if (tensor_.data != nullptr && dims_[0] >= n_rows) return;
    std::int64_t dims[] = {std::max<std::int64_t>(1, n_rows), ld};
    int n_dims = ld > 0 ? 2 : 1;
    std::int64_t rest = budget.limit - (budget.held - n_bytes_);
    if (budget.limit > 0 && bytes_of(dtype, dims, n_dims) > rest) {
        fail(CAVS_ERROR_MEMORY, "the batch needs more than the ", budget.limit,
             " bytes that a call may take. Give fewer graphs, or let calls take more "
             "(cavs_limit_memory).");
    }
    if (tensor_.data != nullptr) {
        std::int64_t more[] = {n_rows + n_rows / GROWTH, ld};
        if (budget.limit == 0 || bytes_of(dtype, more, n_dims) <= rest) dims[0] = more[0];
    }
    budget.held -= n_bytes_;
    allocate(dtype, dims, n_dims);
    budget.held += n_bytes_;
}

View::View(const void *data, DType dtype, std::int64_t n, std::int64_t ld)
    : dims_{n, ld},
      strides_{std::max<std::int64_t>(1, ld), 1},
      tensor_{const_cast<void *>(data), 1, 0, ld > 0 ? 2 : 1, dtype, dims_, strides_, 0} {}

}  // namespace cavs::inside
