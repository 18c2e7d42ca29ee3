// Whether this machine can run a model's kernels: its instructions, before any is executed.
#pragma once

#include <string>
#include <vector>

namespace cavs::inside {

// Failure with CAVS_ERROR_CPU if not. `architecture` as Linux calls it; `instructions` as LLVM
// does.
void require_cpu(const std::string &architecture, const std::vector<std::string> &instructions);

}  // namespace cavs::inside
