// The table of C functions by which an array library hands arrays to others, and takes theirs, without a call in Python:
// DLPack 1.3, `DLPackExchangeAPI` of dlpack.h, found at a type as `__dlpack_c_exchange_api__`. What is not used is void*.
#pragma once

#include <Python.h>

#include <cstdint>

namespace dlpack {

constexpr uint32_t kMajor = 1;  // of the versions whose layout this is
constexpr int32_t kCpu = 1;
enum Code : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBool = 6 };

struct Type {
  uint8_t code, bits;
  uint16_t lanes;
  bool operator==(const Type& other) const { return code == other.code && bits == other.bits && lanes == other.lanes; }
};

struct Tensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t dims;
  Type type;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct Version {
  uint32_t major, minor;
};

struct Managed {
  Version version;
  void* context;
  void (*deleter)(Managed*);
  uint64_t flags;
  Tensor tensor;
};

struct Exchange {
  Version version;
  const Exchange* older;
  void *allocate, *take;
  int (*make)(Managed*, void** out);             // a new array, which owns what it is given
  int (*look)(void* array, Tensor* out);         // as long as the array lives; may be null
  void* stream;
};

// That of a type, or null where it has none that is known here. No error is set.
inline const Exchange* exchange_of(PyTypeObject* type) {
  PyObject* const capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  const auto* found =
      capsule == nullptr ? nullptr : static_cast<const Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_XDECREF(capsule);  // the table itself stays as long as the process
  PyErr_Clear();
  while (found != nullptr && found->version.major > kMajor) found = found->older;
  return found != nullptr && found->version.major == kMajor && found->look != nullptr ? found : nullptr;
}

}  // namespace dlpack
