// Arrays as kernels take them: DLPack's tensors over aligned memory that only grows.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace cavs::inside {

// As dlpack/dlpack.h and tvm/ffi/c_api.h have them.
struct DType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};

struct Tensor {
    void *data;
    std::int32_t device_type, device_id, n_dims;
    DType dtype;
    std::int64_t *dims, *strides;
    std::uint64_t byte_offset;
};

struct Any {
    std::int32_t type;
    std::uint32_t padding;
    std::int64_t value;
};

static_assert(sizeof(Tensor) == 48 && sizeof(Any) == 16 && sizeof(void *) == 8);

constexpr DType INT32 = {0, 32, 1}, INT64 = {0, 64, 1}, UINT8 = {1, 8, 1}, FLOAT32 = {2, 32, 1},
                BOOL = {6, 8, 1};
constexpr int MOST_DIMS = 8;

// How many bytes some arrays may take together, and take.
struct Budget {
    std::int64_t limit = 0, held = 0;  // a limit of 0 is none
};

// Zeros at first; it is never moved, as kernels know where its tensor is.
class Array {
   public:
    Array() = default;
    Array(const Array &) = delete;
    Array &operator=(const Array &) = delete;

    // Make it have this shape, filled with zeros.
    void shape(DType dtype, const std::vector<std::int64_t> &dims);

    // Let it hold n_rows of `ld` numbers each, or n_rows numbers where ld is 0. What it held is
    // lost where it grows. Failure with CAVS_ERROR_MEMORY if there is not as much.
    void rows(DType dtype, std::int64_t n_rows, std::int64_t ld, Budget &budget);

    Tensor *tensor() { return &tensor_; }
    std::int64_t n_rows() const { return dims_[0]; }
    std::int64_t n_bytes() const { return n_bytes_; }

    template <class T>
    T *data() {
        return static_cast<T *>(tensor_.data);
    }

   private:
    struct Free {
        void operator()(void *memory) const;
    };

    void allocate(DType dtype, const std::int64_t *dims, int n_dims);

    std::unique_ptr<void, Free> memory_;
    std::array<std::int64_t, MOST_DIMS> dims_{}, strides_{};
    std::int64_t n_bytes_ = 0;
    Tensor tensor_{nullptr, 1, 0, 1, INT32, dims_.data(), strides_.data(), 0};
};

// The caller's memory as a tensor, [n] or [n, ld]; kernels only read it.
class View {
   public:
    View(const void *data, DType dtype, std::int64_t n, std::int64_t ld);
    View(const View &) = delete;
    View &operator=(const View &) = delete;

    Tensor *tensor() { return &tensor_; }

   private:
    std::int64_t dims_[2], strides_[2];
    Tensor tensor_;
};

}  // namespace cavs::inside
