// The plain case of small fits and warps: contiguous arrays in the machine's byte order and no unusual option. Python's
// checks take longer than such work, so they are made here; for whatever else comes, or is wrong, these functions return
// None, and the general path in tpc_fast/ops does it or says what is wrong.
#pragma once

#include <pybind11/pybind11.h>

void bind_quick(pybind11::module_& module);
