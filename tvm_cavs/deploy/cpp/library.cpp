#include "library.hpp"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "failure.hpp"

namespace cavs::inside {
namespace {

// Closes a file unless it is kept.
struct Held {
    int file;
    ~Held() {
        if (file >= 0) close(file);
    }
    int keep() {
        int kept = file;
        file = -1;
        return kept;
    }
};

std::string why(int number) {
    char buffer[128] = "";
    return strerror_r(number, buffer, sizeof buffer);
}

void write_all(int file, const std::string &content) {
    std::size_t done = 0;
    while (done < content.size()) {
        ssize_t n = write(file, content.data() + done, content.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            fail(CAVS_ERROR_MEMORY, "kernels cannot be brought to memory: ", why(errno), ".");
        done += static_cast<std::size_t>(n);
    }
}

}  // namespace

// From a file in memory: what was checked is what runs, and a folder that was exported anew gives
// its new kernels, which the system's loader does not for a path that it knows. The file stays
// open, so that its path is nobody else's as long as the library is there.
Library::Library(const std::string &content) {
    Held file{memfd_create("kernels", MFD_CLOEXEC)};
    if (file.file < 0) {
        fail(CAVS_ERROR_CPU,
             "the system gives no file in memory to load kernels from: ", why(errno),
             ". It must let this process call memfd_create.");
    }
    write_all(file.file, content);
    std::string path = text("/proc/self/fd/", file.file);
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) {
        const char *error = dlerror();
        fail(CAVS_ERROR_CPU, "kernels.so cannot be loaded: ", error == nullptr ? "unknown" : error,
             ".");
    }
    said_ = reinterpret_cast<const char *(*)()>(dlsym(handle_, "tvm_cavs_said"));
    file_ = file.keep();
}

Library::~Library() {
    dlclose(handle_);
    close(file_);
}

Code Library::kernel(const std::string &symbol) const {
    void *found = dlsym(handle_, ("__tvm_ffi_" + symbol).c_str());
    if (found == nullptr) fail(CAVS_ERROR_DAMAGED, "kernels.so has no kernel ", symbol, ".");
    return reinterpret_cast<Code>(found);
}

std::string Library::said() const {
    std::string made = said_ == nullptr ? "" : said_();
    return made.empty() ? "it told its reason to the tvm_ffi of this process" : made;
}

}  // namespace cavs::inside
