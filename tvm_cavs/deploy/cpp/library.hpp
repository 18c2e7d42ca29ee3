// kernels.so: compiled kernels by their symbols, and how one is called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "memory.hpp"

namespace cavs::inside {

// A kernel, as tvm/ffi/c_api.h has functions; 0 is success.
using Code = int (*)(void *self, const Any *args, std::int32_t n_args, Any *result);

class Library {
   public:
    // Load what a file held. Failure with CAVS_ERROR_CPU where the system does not load it.
    explicit Library(const std::string &content);
    ~Library();
    Library(const Library &) = delete;
    Library &operator=(const Library &) = delete;

    // Failure with CAVS_ERROR_DAMAGED if it is not there.
    Code kernel(const std::string &symbol) const;

    // Why a kernel of this thread has just refused its arguments.
    std::string said() const;

   private:
    int file_ = -1;
    void *handle_ = nullptr;
    const char *(*said_)() = nullptr;
};

inline Any argument(std::int64_t value) { return {1, 0, value}; }  // kTVMFFIInt
inline Any argument(Tensor *tensor) {                              // kTVMFFIDLTensorPtr
    return {7, 0, static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(tensor))};
}
inline Any argument(Array &array) { return argument(array.tensor()); }
inline Any argument(View &view) { return argument(view.tensor()); }

// Whether the kernel took its arguments.
template <class... Given>
bool call(Code code, Given &&...given) {
    const Any args[] = {argument(given)...};
    Any result{};
    return code(nullptr, args, static_cast<std::int32_t>(sizeof...(given)), &result) == 0;
}

}  // namespace cavs::inside
