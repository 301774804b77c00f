#include "bindings_quick.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <new>
#include <optional>
#include <stdexcept>
#include <vector>

#include "exchange.h"
#include "procrustes.h"
#include "warp.h"

namespace py = pybind11;
using py::detail::npy_api;

namespace {

constexpr int kMaxDims = 8;             // of the results; more go the general way
constexpr int64_t kHoldingLock = 4096;  // points or pixels that are done before another thread would get the GIL
constexpr int kHalf = 23;               // NPY_HALF

// torch.Tensor's; null where it has none. Asked for one type only.
const dlpack::Exchange* exchange(PyTypeObject* tensor) {
  static const dlpack::Exchange* const found = dlpack::exchange_of(tensor);
  return found;
}

// Null for None. False where the type says nothing of its tensors: older versions of torch.
bool tensor_type(PyObject* given, PyTypeObject*& tensor) {
  tensor = given == Py_None ? nullptr : reinterpret_cast<PyTypeObject*>(given);
  return tensor == nullptr || exchange(tensor) != nullptr;
}

// Element types, as NumPy numbers them and as DLPack describes them.
constexpr struct {
  int number;
  dlpack::Type type;
} kTypes[] = {{npy_api::NPY_FLOAT_, {dlpack::kFloat, 32, 1}},
              {npy_api::NPY_DOUBLE_, {dlpack::kFloat, 64, 1}},
              {npy_api::NPY_UBYTE_, {dlpack::kUInt, 8, 1}},
              {npy_api::NPY_BOOL_, {dlpack::kBool, 8, 1}},
              {kHalf, {dlpack::kFloat, 16, 1}}};

// An array as NumPy describes it, or a tensor of torch on the CPU.
struct View {
  const char* data = nullptr;
  int dims = 0, type = 0;
  const Py_intptr_t* shape = nullptr;

  // False for what is not plain. `tensor`: null for an array of NumPy, torch.Tensor for a tensor.
  bool of(PyObject* object, PyTypeObject* tensor) { return tensor == nullptr ? of_array(object) : of_tensor(object, tensor); }

 private:
  bool of_array(PyObject* object) {
    if (Py_TYPE(object) != npy_api::get().PyArray_Type_) return false;
    const py::detail::PyArray_Proxy* array = py::detail::array_proxy(object);
    constexpr int kPlain = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;
    const auto* descr = reinterpret_cast<const py::detail::PyArrayDescr_Proxy*>(array->descr);
    if ((array->flags & kPlain) != kPlain || (descr->byteorder != '=' && descr->byteorder != '|')) return false;
    data = array->data;
    dims = array->nd;
    shape = array->dimensions;
    type = descr->type_num;
    return true;
  }

  bool of_tensor(PyObject* object, PyTypeObject* tensor) {
    static PyObject* const wants_gradient = PyUnicode_InternFromString("requires_grad");
    static PyObject* const is_negated = PyUnicode_InternFromString("is_neg");
    if (Py_TYPE(object) != tensor) return false;
    const auto denied = [](PyObject* answer) {
      const bool is = answer == Py_False;
      Py_XDECREF(answer);
      return is;
    };
    dlpack::Tensor seen{};
    // What look() refuses: a tensor of torch.func, or one without a storage or strides. Only numbers that are floating
    // have gradients.
    if (exchange(tensor)->look(object, &seen) != 0 || !denied(PyObject_CallMethodNoArgs(object, is_negated)) ||
        (seen.type.code != dlpack::kUInt && !denied(PyObject_GetAttr(object, wants_gradient))))
      return PyErr_Clear(), false;
    if (seen.device.type != dlpack::kCpu || seen.data == nullptr || seen.dims > kMaxDims) return false;
    int64_t stride = 1;
    for (int i = seen.dims; i-- > 0; stride *= seen.shape[i])
      if (seen.shape[i] != 1 && seen.strides[i] != stride) return false;
    const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const auto& t) { return t.type == seen.type; });
    if (found == std::end(kTypes)) return false;
    data = static_cast<const char*>(seen.data) + seen.byte_offset;
    dims = seen.dims;
    shape = reinterpret_cast<const Py_intptr_t*>(seen.shape);  // int64_t by another name
    static_assert(sizeof(Py_intptr_t) == sizeof(int64_t));
    type = found->number;
    return true;
  }
};

// A new array of NumPy.
struct Result {
  py::object array;
  void* data;
  int type;

  Result(int type, const Py_intptr_t* shape, int dims) : type(type) {
    const npy_api& api = npy_api::get();
    array = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
        api.PyArray_Type_, api.PyArray_DescrFromType_(type), dims, shape, nullptr, nullptr, 0, nullptr));
    if (!array) throw py::error_already_set();
    data = py::detail::array_proxy(array.ptr())->data;
  }

  // The array, or a tensor that shares its memory, if that is not null.
  py::object as(PyTypeObject* tensor) const {
    if (tensor == nullptr) return array;
    struct Lent : dlpack::Managed {
      int64_t sides[2 * (kMaxDims + 2)];  // shape and strides
    };
    const auto* proxy = py::detail::array_proxy(array.ptr());
    const int dims = proxy->nd;
    auto* lent = new Lent{};
    std::copy_n(proxy->dimensions, dims, lent->sides);
    int64_t* const strides = lent->sides + dims;
    for (int i = dims; i-- > 0;) strides[i] = i + 1 < dims ? strides[i + 1] * lent->sides[i + 1] : 1;
    lent->version = {dlpack::kMajor, 0};
    lent->context = array.inc_ref().ptr();
    lent->deleter = [](dlpack::Managed* managed) {
      if (Py_IsInitialized()) {
        const PyGILState_STATE state = PyGILState_Ensure();
        Py_DECREF(static_cast<PyObject*>(managed->context));
        PyGILState_Release(state);
      }
      delete static_cast<Lent*>(managed);
    };
    const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const auto& t) { return t.number == type; });
    lent->tensor = {data, {dlpack::kCpu, 0}, dims, found->type, lent->sides, strides, 0};
    void* out = nullptr;
    if (exchange(tensor)->make(lent, &out) != 0) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(static_cast<PyObject*>(out));
  }
};

// Without the GIL if it takes long.
template <typename Work>
void run(int64_t size, const Work& work) {
  std::optional<py::gil_scoped_release> release;
  if (size > kHoldingLock) release.emplace();
  work();
}

PyObject* none() { Py_RETURN_NONE; }

// A function of CPython whose C++ errors become Python's.
template <PyObject* (*kFunction)(PyObject* const*), Py_ssize_t kArguments>
PyObject* guarded(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  try {
    if (count != kArguments) throw std::invalid_argument("wrong number of arguments");
    return kFunction(arguments);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return nullptr;
}

// ---------------------------------------------------------------------------------------------------------------
// Fits

template <typename T>
PyObject* fit_of(PyObject* kind, const View& src, const View& dst, const View* weights, PyTypeObject* tensor) {
  const View& widest = src.dims > dst.dims ? src : dst;
  const int batch_dims = widest.dims - 2, d = static_cast<int>(src.shape[src.dims - 1]);
  tpc::FitBatch<T> batch{};
  batch.count = 1;
  batch.points = src.shape[src.dims - 2];
  batch.dims = d;
  Py_intptr_t shape[kMaxDims + 2];
  for (int i = 0; i < batch_dims; ++i) batch.count *= shape[i] = widest.shape[i];
  if (batch.count == 0 || batch.points == 0) return none();
  batch.src = reinterpret_cast<const T*>(src.data);
  batch.dst = reinterpret_cast<const T*>(dst.data);
  batch.src_stride = src.dims == 2 ? 0 : batch.points * d;
  batch.dst_stride = dst.dims == 2 ? 0 : batch.points * d;
  if (weights != nullptr) {
    batch.weights = reinterpret_cast<const T*>(weights->data);
    batch.weights_stride = weights->dims == 1 ? 0 : batch.points;
    const int64_t count = (weights->dims == 1 ? 1 : batch.count) * batch.points;
    for (int64_t i = 0; i < count; ++i)
      if (!(batch.weights[i] >= 0 && batch.weights[i] <= std::numeric_limits<T>::max())) return none();
  }
  shape[batch_dims] = shape[batch_dims + 1] = d;
  const Result scale(src.type, shape, batch_dims), rotation(src.type, shape, batch_dims + 2);
  const Result translation(src.type, shape, batch_dims + 1), residual(src.type, shape, batch_dims);
  const Result ok(npy_api::NPY_BOOL_, shape, batch_dims);
  batch.scale = static_cast<T*>(scale.data);
  batch.rotation = static_cast<T*>(rotation.data);
  batch.translation = static_cast<T*>(translation.data);
  batch.residual = static_cast<T*>(residual.data);
  batch.ok = static_cast<bool*>(ok.data);
  run(batch.count * batch.points, [&] { tpc::fit_similarity(batch); });

  static PyObject* const nothing = PyTuple_New(0);
  static PyObject* const names[] = {PyUnicode_InternFromString("scale"), PyUnicode_InternFromString("rotation"),
                                    PyUnicode_InternFromString("translation"), PyUnicode_InternFromString("residual"),
                                    PyUnicode_InternFromString("ok")};
  auto* type = reinterpret_cast<PyTypeObject*>(kind);
  py::object fit = py::reinterpret_steal<py::object>(type->tp_new(type, nothing, nullptr));
  if (!fit) throw py::error_already_set();
  const Result* const results[] = {&scale, &rotation, &translation, &residual, &ok};
  for (int i = 0; i < 5; ++i)  // past the frozen dataclass's own setter
    if (PyObject_GenericSetAttr(fit.ptr(), names[i], results[i]->as(tensor).ptr()) != 0)
      throw py::error_already_set();
  return fit.release().ptr();
}

// Fit, src, dst, weights or None, torch.Tensor or None -> Fit, or None.
PyObject* quick_fit(PyObject* const* arguments) {
  PyObject *const kind = arguments[0], *const given = arguments[3];
  PyTypeObject* tensor;
  View src, dst, weights;
  if (!tensor_type(arguments[4], tensor) || !PyType_Check(kind) || !src.of(arguments[1], tensor) || !dst.of(arguments[2], tensor)) return none();
  if (src.type != dst.type || src.dims < 2 || dst.dims < 2 || std::max(src.dims, dst.dims) > kMaxDims) return none();
  const Py_intptr_t *const x = src.shape + src.dims - 2, *const y = dst.shape + dst.dims - 2;
  if (x[0] != y[0] || x[1] != y[1] || (x[1] != 2 && x[1] != 3)) return none();
  const bool one_batch = src.dims == dst.dims && std::equal(src.shape, src.shape + src.dims, dst.shape);
  if (!one_batch && src.dims != 2 && dst.dims != 2) return none();
  if (given != Py_None) {
    const View& widest = src.dims > dst.dims ? src : dst;
    if (!weights.of(given, tensor) || weights.type != src.type) return none();
    const bool shared = weights.dims == 1 && weights.shape[0] == x[0];
    const bool own = weights.dims == widest.dims - 1 && std::equal(weights.shape, weights.shape + weights.dims, widest.shape);
    if (!shared && !own) return none();
  }
  const View* const used = given == Py_None ? nullptr : &weights;
  if (src.type == npy_api::NPY_DOUBLE_) return fit_of<double>(kind, src, dst, used, tensor);
  if (src.type == npy_api::NPY_FLOAT_) return fit_of<float>(kind, src, dst, used, tensor);
  return none();
}

// ---------------------------------------------------------------------------------------------------------------
// Warps

bool side_of(PyObject* object, int64_t& side) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  side = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0 && 1 <= side && side <= tpc::WarpSource::kMaxSide;
}

bool size_of(PyObject* object, tpc::WarpJob& job) {
  if (side_of(object, job.height)) return side_of(object, job.width);
  if (!PyTuple_CheckExact(object) || PyTuple_GET_SIZE(object) != 2) return false;
  return side_of(PyTuple_GET_ITEM(object, 0), job.height) && side_of(PyTuple_GET_ITEM(object, 1), job.width);
}

// The index of a name; -1 for what is none.
template <size_t kCount>
int named(PyObject* object, const char* const (&names)[kCount]) {
  if (!PyUnicode_CheckExact(object)) return -1;
  for (size_t i = 0; i < kCount; ++i)
    if (PyUnicode_CompareWithASCIIString(object, names[i]) == 0) return static_cast<int>(i);
  return -1;
}

constexpr const char* kInterpolations[] = {"nearest", "bilinear", "cubic"};  // as tpc::Interpolation
constexpr const char* kFormats[] = {"uint8", "float32", "float16"};          // as tpc::Format

// size, interpolation, antialias, background (None, a number, or uint8 [h, w, C]), dtype (None: uint8).
bool options_of(PyObject* const* arguments, int channels, PyTypeObject* tensor, tpc::WarpJob& job, bool& composite) {
  if (!size_of(arguments[0], job) || !PyBool_Check(arguments[2])) return false;
  const int interpolation = named(arguments[1], kInterpolations);
  const int format = arguments[4] == Py_None ? 0 : named(arguments[4], kFormats);
  if (interpolation < 0 || format < 0) return false;
  job.interpolation = static_cast<tpc::Interpolation>(interpolation);
  job.format = static_cast<tpc::Format>(format);
  job.antialias = arguments[2] == Py_True;
  composite = arguments[3] != Py_None;
  if (!composite) return true;
  if (!PyFloat_CheckExact(arguments[3]) && !PyLong_CheckExact(arguments[3])) {
    View ground;
    const Py_intptr_t shape[] = {job.height, job.width, channels};
    if (!ground.of(arguments[3], tensor) || ground.type != npy_api::NPY_UBYTE_ || ground.dims != 3) return false;
    job.background = reinterpret_cast<const uint8_t*>(ground.data);
    return std::equal(shape, shape + 3, ground.shape);
  }
  const double level = PyFloat_AsDouble(arguments[3]);
  if (level == -1.0 && PyErr_Occurred()) PyErr_Clear();
  if (!(level >= 0 && level <= 255)) return false;
  std::fill_n(job.colour, channels, static_cast<float>(level));
  return true;
}

// `sane_matrices` of tpc_fast/ops/warp.py.
bool sane(const double* m) {
  constexpr double kMost = 1e15;
  const double a = m[0], b = m[1], tx = m[2], c = m[3], d = m[4], ty = m[5], det = std::abs(a * d - b * c);
  if (!(det > 0 && det < std::numeric_limits<double>::infinity())) return false;
  for (const double entry : {a, b, c, d, b * ty - d * tx, c * tx - a * ty})
    if (!(std::abs(entry) <= kMost * det)) return false;
  for (int i = 0; i < 6; ++i)
    if (!(std::abs(m[i]) <= kMost)) return false;
  return true;
}

// [F, P, 2, 3], or [F, 2, 3] of one person, as float64 numbers that can be warped by.
bool matrices_of(const View& view, int64_t persons, tpc::WarpJob& job, std::vector<double>& wide) {
  const bool alone = view.dims == 3 && persons == 1;
  if (!alone && !(view.dims == 4 && view.shape[1] == persons)) return false;
  if (view.shape[view.dims - 2] != 2 || view.shape[view.dims - 1] != 3) return false;
  job.frames = view.shape[0];
  const int64_t count = job.frames * persons * 6;
  if (view.type == npy_api::NPY_DOUBLE_) {
    job.matrix = reinterpret_cast<const double*>(view.data);
  } else if (view.type == npy_api::NPY_FLOAT_) {
    const auto* from = reinterpret_cast<const float*>(view.data);
    wide.assign(from, from + count);
    job.matrix = wide.data();
  } else {
    return false;
  }
  for (int64_t i = 0; i < count; i += 6)
    if (!sane(job.matrix + i)) return false;
  return job.frames > 0;
}

// Allocates, warps, and returns a Warped.
PyObject* warped(PyObject* kind, tpc::WarpSource& source, tpc::WarpJob& job, bool composite, PyTypeObject* tensor) {
  const bool bytes = job.format == tpc::Format::uint8;
  const int type = bytes ? int{npy_api::NPY_UBYTE_} : job.format == tpc::Format::float32 ? int{npy_api::NPY_FLOAT_} : kHalf;
  const Py_intptr_t f = job.frames, p = source.persons(), c = source.channels(), h = job.height, w = job.width;
  const Py_intptr_t image_shape[] = {f, p, bytes ? h : c, bytes ? w : h, bytes ? c : w}, mask_shape[] = {f, p, h, w};
  const Py_intptr_t composite_shape[] = {f, image_shape[2], image_shape[3], image_shape[4]};
  const Result image(type, image_shape, 5), mask(type, mask_shape, 4);
  std::optional<Result> whole;
  if (composite) whole.emplace(type, composite_shape, 4);
  job.image = image.data;
  job.mask = mask.data;
  job.composite = composite ? whole->data : nullptr;
  run(f * p * h * w, [&] { tpc::warp_composite(source, job); });
  py::object outputs[] = {image.as(tensor), mask.as(tensor), composite ? whole->as(tensor) : py::none()};
  auto* type_of = reinterpret_cast<PyTypeObject*>(kind);
  PyObject* out = type_of->tp_alloc(type_of, 3);  // as tuple.__new__ makes a named tuple
  if (out == nullptr) throw py::error_already_set();
  for (int i = 0; i < 3; ++i) PyTuple_SET_ITEM(out, i, outputs[i].release().ptr());
  return out;
}

bool is_tuple_type(PyObject* kind) {
  return PyType_Check(kind) && PyType_FastSubclass(reinterpret_cast<PyTypeObject*>(kind), Py_TPFLAGS_TUPLE_SUBCLASS);
}

// Warped, WarpSource, matrix, size, interpolation, antialias, background, dtype, torch.Tensor or None -> Warped, or None.
PyObject* quick_warp(PyObject* const* arguments) {
  PyObject* const kind = arguments[0];
  PyTypeObject* tensor;
  auto& source = py::handle(arguments[1]).cast<tpc::WarpSource&>();
  tpc::WarpJob job{};
  bool composite = false;
  View matrix;
  std::vector<double> wide;
  if (!tensor_type(arguments[8], tensor) || !is_tuple_type(kind)) return none();
  if (!options_of(arguments + 3, source.channels(), tensor, job, composite)) return none();
  if (!matrix.of(arguments[2], tensor)) return none();
  if (!matrices_of(matrix, source.persons(), job, wide)) return none();
  return warped(kind, source, job, composite, tensor);
}

// Warped, image, mask, matrix, size, interpolation, antialias, background, dtype, torch.Tensor or None -> Warped, or None.
PyObject* quick_warp_once(PyObject* const* arguments) {
  PyObject* const kind = arguments[0];
  PyTypeObject* tensor;
  View image, mask, matrix;
  if (!tensor_type(arguments[9], tensor) || !is_tuple_type(kind) || !image.of(arguments[1], tensor) || !mask.of(arguments[2], tensor) ||
      !matrix.of(arguments[3], tensor))
    return none();
  if (image.type != npy_api::NPY_UBYTE_ || mask.type != npy_api::NPY_UBYTE_) return none();
  if ((image.dims != 3 && image.dims != 4) || (mask.dims != 2 && mask.dims != 3)) return none();
  const Py_intptr_t *const sides = image.shape + image.dims - 3, *const covered = mask.shape + mask.dims - 2;
  const int64_t height = sides[0], width = sides[1], channels = sides[2], persons = mask.dims == 3 ? mask.shape[0] : 1;
  if ((channels != 1 && channels != 3) || covered[0] != height || covered[1] != width) return none();
  if (height == 0 || width == 0 || persons == 0 || !tpc::WarpSource::fits(height, width)) return none();
  if (image.dims == 4 && image.shape[0] != persons) return none();
  tpc::WarpJob job{};
  bool composite = false;
  std::vector<double> wide;
  if (!options_of(arguments + 4, static_cast<int>(channels), tensor, job, composite)) return none();
  if (!matrices_of(matrix, persons, job, wide)) return none();
  std::optional<tpc::WarpSource> source;
  run(height * width * persons, [&] {
    source.emplace(reinterpret_cast<const uint8_t*>(image.data), image.dims == 3,
                   reinterpret_cast<const uint8_t*>(mask.data), persons, height, width, static_cast<int>(channels));
  });
  return warped(kind, *source, job, composite, tensor);
}

template <PyObject* (*kFunction)(PyObject* const*), Py_ssize_t kArguments>
void add(py::module_& module, const char* name) {
  static PyMethodDef definition = {
      name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(guarded<kFunction, kArguments>)), METH_FASTCALL, nullptr};
  PyObject* const function = PyCFunction_New(&definition, nullptr);
  if (function == nullptr) throw py::error_already_set();
  module.add_object(name, py::reinterpret_steal<py::object>(function));
}

}  // namespace

void bind_quick(py::module_& module) {
  add<quick_fit, 5>(module, "quick_fit");
  add<quick_warp, 9>(module, "quick_warp");
  add<quick_warp_once, 10>(module, "quick_warp_once");
}
