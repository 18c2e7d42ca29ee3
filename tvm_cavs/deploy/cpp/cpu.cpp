#include "cpu.hpp"

#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "failure.hpp"
#include "files.hpp"

namespace cavs::inside {
namespace {

constexpr const char *REMEDY =
    " Export it for this machine: tvm-cavs export RUN --out DIR on it, or --target with less.";
// LLVM's name of a feature -> Linux's, where they differ by more than what `plain` leaves out
constexpr const char *LINUX[][2] = {{"lzcnt", "abm"},       {"sse3", "pni"},
                                    {"bmi", "bmi1"},        {"neon", "asimd"},
                                    {"dotprod", "asimddp"}, {"fullfp16", "asimdhp"}};

// What every CPU of an architecture has that runs Linux
constexpr const char *BASE[][2] = {{"x86_64", "sse"}, {"x86_64", "sse2"}, {"aarch64", "neon"}};

bool is_base(const std::string &architecture, const std::string &name) {
    for (const auto &row : BASE) {
        if (architecture == row[0] && name == row[1]) return true;
    }
    return false;
}

// Small letters and digits only.
std::string plain(std::string_view name) {
    std::string made;
    for (char c : name) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) made += c;
    }
    return made;
}

std::string of_linux(const std::string &name) {
    for (const auto &row : LINUX) {
        if (name == row[0]) return row[1];
    }
    return plain(name);
}

// What this CPU can do, as Linux lists it.
std::set<std::string> features() {
    std::string content = read_file("/proc/cpuinfo", CAVS_ERROR_CPU);
    std::string_view left = content;
    std::set<std::string> made;
    while (!left.empty()) {
        std::string_view line = left.substr(0, left.find('\n'));
        left.remove_prefix(std::min(left.size(), line.size() + 1));
        bool named = line.substr(0, 5) == "flags" || line.substr(0, 8) == "Features";
        std::size_t colon = line.find(':');
        if (!named || colon == line.npos) continue;
        line.remove_prefix(colon + 1);
        while (!line.empty()) {
            std::string_view word = line.substr(0, line.find(' '));
            line.remove_prefix(std::min(line.size(), word.size() + 1));
            if (!word.empty()) made.insert(plain(word));
        }
        return made;
    }
    return made;
}

// Linux lets a process use AMX that asks, and then its threads and children.
bool amx_allowed() {
#if defined(__x86_64__)
    constexpr long req_xcomp_perm = 0x1023, xtiledata = 18;
    return syscall(SYS_arch_prctl, req_xcomp_perm, xtiledata) == 0;
#else
    return false;
#endif
}

}  // namespace

void require_cpu(const std::string &architecture, const std::vector<std::string> &instructions) {
    struct utsname here;
    if (uname(&here) != 0) fail(CAVS_ERROR_CPU, "the system does not say what machine this is.");
    if (architecture != here.machine) {
        fail(CAVS_ERROR_CPU, "the model is for ", architecture, ", and this machine is ",
             here.machine, ".", REMEDY);
    }
    std::set<std::string> more, have, lacking;
    for (const std::string &name : instructions) {
        if (!is_base(architecture, name)) more.insert(name);
    }
    if (!more.empty()) have = features();
    for (const std::string &name : more) {
        if (have.count(of_linux(name)) == 0) lacking.insert(name);
    }
    if (!lacking.empty()) {
        std::string names;
        for (const std::string &name : lacking) names += (names.empty() ? "" : ", ") + name;
        fail(CAVS_ERROR_CPU, "the model's kernels use instructions that this CPU lacks: ", names,
             ".", REMEDY);
    }
    if (more.count("amx-tile") > 0 && !amx_allowed()) {
        fail(CAVS_ERROR_CPU,
             "the model's kernels use AMX, which the system does not let this process use. Export "
             "it "
             "with executor.precision=float32.");
    }
}

}  // namespace cavs::inside
