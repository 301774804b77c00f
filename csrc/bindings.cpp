// Knows Python, as bindings_quick.cpp does and nobody else: checks shapes, releases the GIL, hands buffers on without
// copying.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings_quick.h"
#include "marks.h"
#include "mask_head.h"
#include "panels.h"
#include "parallel.h"
#include "people.h"
#include "png.h"
#include "procrustes.h"
#include "resample.h"
#include "sample.h"
#include "search_3d.h"
#include "search_many.h"
#include "simd.h"
#include "track.h"
#include "transforms.h"
#include "warp.h"
#include "yuv.h"

namespace py = pybind11;
using tpc::Simd;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

const char* const kSimdNames[] = {"baseline", "avx2", "avx512"};

std::vector<std::string> simd_levels() {
  return {kSimdNames, kSimdNames + static_cast<int>(tpc::best_simd()) + 1};
}

void force_simd(const std::string& name) {
  for (int level = 0; level < 3; ++level)
    if (name == kSimdNames[level] && tpc::force_simd(static_cast<Simd>(level))) return;
  throw std::invalid_argument("no such SIMD level on this processor: " + name);
}

// A batch and the arrays that its results go to. src, dst: [N or 1, K, D]; weights: [N or 1, K] or None. One row is shared
// by all N problems.
template <typename T>
struct FitArrays {
  tpc::FitBatch<T> batch{};
  Array<T> scale, rotation, translation, residual;
  Array<bool> ok;

  FitArrays(const Array<T>& src, const Array<T>& dst, const std::optional<Array<T>>& weights) {
    require(src.ndim() == 3 && dst.ndim() == 3, "src and dst must be [N, K, D]");
    tpc::FitBatch<T>& b = batch;
    b.count = std::max(src.shape(0), dst.shape(0));
    if (src.shape(0) == 0 || dst.shape(0) == 0) b.count = 0;
    b.points = src.shape(1);
    b.dims = static_cast<int>(src.shape(2));
    require(dst.shape(1) == b.points && dst.shape(2) == b.dims && (b.dims == 2 || b.dims == 3), "src and dst differ");
    const auto stride = [&](const auto& array) -> int64_t {
      require(array.shape(0) == b.count || array.shape(0) == 1 || b.count == 0, "batch sizes differ");
      return array.shape(0) == 1 ? 0 : array.size() / std::max<int64_t>(array.shape(0), 1);
    };
    b.src = src.data();
    b.dst = dst.data();
    b.src_stride = stride(src);
    b.dst_stride = stride(dst);
    if (weights) {
      require(weights->ndim() == 2 && weights->shape(1) == b.points, "weights must be [N, K]");
      b.weights = weights->data();
      b.weights_stride = stride(*weights);
    }
    const py::ssize_t n = b.count, d = b.dims;
    scale = Array<T>(n);
    rotation = Array<T>({n, d, d});
    translation = Array<T>({n, d});
    residual = Array<T>(n);
    ok = Array<bool>(n);
    b.scale = scale.mutable_data();
    b.rotation = rotation.mutable_data();
    b.translation = translation.mutable_data();
    b.residual = residual.mutable_data();
    b.ok = ok.mutable_data();
  }
};

template <typename T>
py::tuple fit_similarity(const Array<T>& src, const Array<T>& dst, const std::optional<Array<T>>& weights) {
  const FitArrays<T> fit(src, dst, weights);
  {
    py::gil_scoped_release release;
    tpc::fit_similarity(fit.batch);
  }
  return py::make_tuple(fit.scale, fit.rotation, fit.translation, fit.residual, fit.ok);
}

// The fit, and the change [N, K] of its scale that leaving a point out makes.
template <typename T>
py::tuple fit_leaving_out(const Array<T>& src, const Array<T>& dst, const Array<T>& weights) {
  const FitArrays<T> fit(src, dst, weights);
  Array<T> change({py::ssize_t{fit.batch.count}, py::ssize_t{fit.batch.points}});
  {
    T* const out = change.mutable_data();
    py::gil_scoped_release release;
    tpc::fit_leaving_out(fit.batch, out);
  }
  return py::make_tuple(fit.scale, fit.rotation, fit.translation, fit.residual, fit.ok, change);
}

// Everything [N, K, ...] and complete; see SearchBatch.
py::tuple search_subset(const Array<double>& src, const Array<double>& dst, const Array<double>& tolerance,
                        const Array<bool>& valid, const Array<double>& prior, const Array<double>& previous,
                        const Array<double>& inertia, int size) {
  require(src.ndim() == 3 && src.shape(2) == 2, "src must be [N, K, 2]");
  const py::ssize_t n = src.shape(0), k = src.shape(1);
  require(k <= tpc::kMaxSearchPoints, "too many points");
  require(dst.size() == n * k * 2 && tolerance.size() == n * k && valid.size() == n * k && prior.size() == n * k &&
              previous.size() == n * 2 && inertia.size() == n,
          "sizes differ");
  Array<int64_t> mask(n);
  Array<double> value(n);
  tpc::SearchBatch b{};
  b.count = n;
  b.points = static_cast<int>(k);
  b.src = src.data();
  b.dst = dst.data();
  b.tolerance = tolerance.data();
  b.valid = valid.data();
  b.prior = prior.data();
  b.previous = previous.data();
  b.inertia = inertia.data();
  b.size = size;
  b.mask = mask.mutable_data();
  b.value = value.mutable_data();
  {
    py::gil_scoped_release release;
    tpc::search_subset(b);
  }
  return py::make_tuple(mask, value);
}

// As search_subset for any K: members [N, K], value, exact, boxes [N].
py::tuple search_many(const Array<double>& src, const Array<double>& dst, const Array<double>& tolerance,
                      const Array<bool>& valid, const Array<double>& prior, const Array<double>& previous,
                      const Array<double>& inertia, int64_t size, int64_t most_boxes) {
  require(src.ndim() == 3 && src.shape(2) == 2 && size >= 0, "src must be [N, K, 2]");
  const py::ssize_t n = src.shape(0), k = src.shape(1);
  require(dst.size() == n * k * 2 && tolerance.size() == n * k && valid.size() == n * k && prior.size() == n * k &&
              previous.size() == n * 2 && inertia.size() == n,
          "sizes differ");
  Array<bool> members({n, k}), exact(n);
  Array<double> value(n);
  Array<int64_t> boxes(n);
  const tpc::ManySearch b{n, k, src.data(), dst.data(), tolerance.data(), valid.data(), prior.data(), previous.data(),
                          inertia.data(), size, most_boxes, members.mutable_data(), value.mutable_data(),
                          exact.mutable_data(), boxes.mutable_data()};
  {
    py::gil_scoped_release release;
    tpc::search_many(b);
  }
  return py::make_tuple(members, value, exact, boxes);
}

// As search_subset for points [N, K, 3]; previous: [N, 3, 3]. Members [N, K], value, exact [N].
py::tuple search_3d(const Array<double>& src, const Array<double>& dst, const Array<double>& tolerance,
                    const Array<bool>& valid, const Array<double>& prior, const Array<double>& previous,
                    const Array<double>& inertia, int64_t size) {
  require(src.ndim() == 3 && src.shape(2) == 3 && size >= 0, "src must be [N, K, 3]");
  const py::ssize_t n = src.shape(0), k = src.shape(1);
  require(dst.size() == n * k * 3 && tolerance.size() == n * k && valid.size() == n * k && prior.size() == n * k &&
              previous.size() == n * 9 && inertia.size() == n,
          "sizes differ");
  Array<bool> members({n, k}), exact(n);
  Array<double> value(n);
  const tpc::Search3d b{n, k, src.data(), dst.data(), tolerance.data(), valid.data(), prior.data(), previous.data(),
                        inertia.data(), size, members.mutable_data(), value.mutable_data(), exact.mutable_data()};
  {
    py::gil_scoped_release release;
    tpc::search_3d(b);
  }
  return py::make_tuple(members, value, exact);
}

tpc::Model model_of(const std::string& name) {
  const char* const names[] = {"translation", "linear", "affine"};
  for (int i = 0; i < 3; ++i)
    if (name == names[i]) return static_cast<tpc::Model>(i);
  throw std::invalid_argument("no such model: " + name);
}

// src, dst: [N, K, 2]; weights: [N, K]; see TransformBatch.
py::tuple fit_linear_map(const Array<double>& src, const Array<double>& dst, const Array<double>& weights,
                        const std::string& model, double floor) {
  require(src.ndim() == 3 && src.shape(2) == 2, "src must be [N, K, 2]");
  const py::ssize_t n = src.shape(0), k = src.shape(1);
  require(dst.size() == n * k * 2 && weights.size() == n * k, "sizes differ");
  Array<double> matrix({n, py::ssize_t{2}, py::ssize_t{3}}), residual(n);
  Array<bool> ok(n);
  const tpc::TransformBatch b{n,     k, model_of(model), src.data(), dst.data(), weights.data(),
                              floor, matrix.mutable_data(), residual.mutable_data(), ok.mutable_data()};
  {
    py::gil_scoped_release release;
    tpc::fit_linear_map(b);
  }
  return py::make_tuple(matrix, residual, ok);
}

// Everything [N, K, ...] and complete; previous: [N, 2, 2]; see TransformSearch.
py::tuple search_transform(const Array<double>& src, const Array<double>& dst, const Array<double>& tolerance,
                           const Array<bool>& valid, const Array<double>& prior, const Array<double>& previous,
                           const Array<double>& inertia, const std::string& model, int size) {
  require(src.ndim() == 3 && src.shape(2) == 2, "src must be [N, K, 2]");
  const py::ssize_t n = src.shape(0), k = src.shape(1);
  require(k <= tpc::kMaxSearchPoints, "too many points");
  require(dst.size() == n * k * 2 && tolerance.size() == n * k && valid.size() == n * k && prior.size() == n * k &&
              previous.size() == n * 4 && inertia.size() == n,
          "sizes differ");
  Array<int64_t> mask(n);
  Array<double> value(n);
  const tpc::TransformSearch b{n, static_cast<int>(k), model_of(model), src.data(), dst.data(), tolerance.data(),
                               valid.data(), prior.data(), previous.data(), inertia.data(), size, mask.mutable_data(),
                               value.mutable_data()};
  {
    py::gil_scoped_release release;
    tpc::search_transform(b);
  }
  return py::make_tuple(mask, value);
}

// image: [P or 1, H, W, C]; mask: [P, H, W].
std::unique_ptr<tpc::WarpSource> warp_source(const Array<uint8_t>& image, const Array<uint8_t>& mask) {
  require(image.ndim() == 4 && mask.ndim() == 3 && image.size() > 0, "image must be [P, H, W, C] and mask [P, H, W]");
  const int64_t persons = mask.shape(0), height = mask.shape(1), width = mask.shape(2);
  require(image.shape(0) == persons || image.shape(0) == 1, "image and mask differ in persons");
  require(image.shape(1) == height && image.shape(2) == width, "image and mask differ in size");
  require(image.shape(3) == 1 || image.shape(3) == 3, "image must have 1 or 3 channels");
  require(tpc::WarpSource::fits(height, width), "image is too large");
  const bool shared = image.shape(0) == 1;
  const int channels = static_cast<int>(image.shape(3));
  py::gil_scoped_release release;
  return std::make_unique<tpc::WarpSource>(image.data(), shared, mask.data(), persons, height, width, channels);
}

// A C-contiguous, writable array of `shape`.
void* output(py::array& array, const py::dtype& dtype, const std::vector<py::ssize_t>& shape) {
  require((array.flags() & py::array::c_style) != 0, "outputs must be contiguous");
  require(array.dtype().equal(dtype), "outputs must have one dtype");
  require(std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim()), "output of a wrong shape");
  return array.mutable_data();
}

// matrix: [F, P, 2, 3]; the outputs give size and format; colour: [C]; background: uint8 [F or 1, h, w, C] or None.
void warp_composite(tpc::WarpSource& source, const Array<double>& matrix, int interpolation, bool antialias,
                    const std::array<float, 3>& colour, const std::optional<Array<uint8_t>>& background,
                    py::array image, py::array mask, std::optional<py::array> composite) {
  const py::ssize_t persons = source.persons(), channels = source.channels(), frames = matrix.shape(0);
  require(matrix.ndim() == 4 && matrix.shape(1) == persons && matrix.shape(2) == 2 && matrix.shape(3) == 3,
          "matrix must be [F, P, 2, 3]");
  require(mask.ndim() == 4 && interpolation >= 0 && interpolation <= 2, "bad mask or interpolation");
  tpc::WarpJob job{};
  job.frames = frames;
  const py::ssize_t height = mask.shape(2), width = mask.shape(3);
  job.height = height;
  job.width = width;
  job.matrix = matrix.data();
  job.interpolation = static_cast<tpc::Interpolation>(interpolation);
  job.antialias = antialias;
  const py::dtype dtype = mask.dtype();
  const bool bytes = dtype.kind() == 'u';
  require(bytes ? dtype.itemsize() == 1 : dtype.kind() == 'f' && dtype.itemsize() <= 4, "unknown format");
  job.format = bytes                    ? tpc::Format::uint8
               : dtype.itemsize() == 4 ? tpc::Format::float32
                                       : tpc::Format::float16;
  using Shape = std::vector<py::ssize_t>;
  job.mask = output(mask, dtype, {frames, persons, height, width});
  job.image = output(image, dtype, bytes ? Shape{frames, persons, height, width, channels}
                                         : Shape{frames, persons, channels, height, width});
  if (composite)
    job.composite = output(*composite, dtype, bytes ? Shape{frames, height, width, channels}
                                                    : Shape{frames, channels, height, width});
  std::copy(colour.begin(), colour.end(), job.colour);
  if (background) {
    require(background->ndim() == 4 && (background->shape(0) == frames || background->shape(0) == 1) &&
                background->shape(1) == height && background->shape(2) == width && background->shape(3) == channels,
            "background must be [F or 1, h, w, C]");
    job.background = background->data();
    job.background_stride = background->shape(0) == 1 ? 0 : height * width * channels;
  }
  py::gil_scoped_release release;
  tpc::warp_composite(source, job);
}

// `warp_composite` with one reference per sample: all arguments have a dimension more, in front.
void warp_samples(const Array<uint8_t>& images, const Array<uint8_t>& masks, const Array<double>& matrix,
                  int interpolation, bool antialias, const std::array<float, 3>& colour,
                  const std::optional<Array<uint8_t>>& background, py::array image, py::array mask,
                  std::optional<py::array> composite) {
  require(images.ndim() == 5 && masks.ndim() == 4 && images.size() > 0 && matrix.ndim() == 5 && mask.ndim() == 5,
          "images must be [N, P, H, W, C], masks [N, P, H, W], matrix [N, F, P, 2, 3]");
  const py::ssize_t samples = images.shape(0), persons = masks.shape(1), height = masks.shape(2), width = masks.shape(3);
  const py::ssize_t channels = images.shape(4), frames = matrix.shape(1), h = mask.shape(3), w = mask.shape(4);
  require(masks.shape(0) == samples && matrix.shape(0) == samples, "samples differ in number");
  require((images.shape(1) == persons || images.shape(1) == 1) && images.shape(2) == height && images.shape(3) == width,
          "images and masks differ");
  require((channels == 1 || channels == 3) && tpc::WarpSource::fits(height, width), "images of a wrong size");
  require(matrix.shape(2) == persons && matrix.shape(3) == 2 && matrix.shape(4) == 3, "matrix must be [N, F, P, 2, 3]");
  require(interpolation >= 0 && interpolation <= 2, "bad interpolation");
  const py::dtype dtype = mask.dtype();
  const bool bytes = dtype.kind() == 'u';
  require(bytes ? dtype.itemsize() == 1 : dtype.kind() == 'f' && dtype.itemsize() <= 4, "unknown format");
  using Shape = std::vector<py::ssize_t>;
  const auto pixels = [&](Shape front) {
    for (py::ssize_t side : bytes ? Shape{h, w, channels} : Shape{channels, h, w}) front.push_back(side);
    return front;
  };
  auto* to_mask = static_cast<char*>(output(mask, dtype, {samples, frames, persons, h, w}));
  auto* to_image = static_cast<char*>(output(image, dtype, pixels({samples, frames, persons})));
  auto* to_composite = composite ? static_cast<char*>(output(*composite, dtype, pixels({samples, frames}))) : nullptr;
  tpc::WarpJob all{};
  all.frames = frames;
  all.height = h;
  all.width = w;
  all.interpolation = static_cast<tpc::Interpolation>(interpolation);
  all.antialias = antialias;
  all.format = bytes ? tpc::Format::uint8 : dtype.itemsize() == 4 ? tpc::Format::float32 : tpc::Format::float16;
  std::copy(colour.begin(), colour.end(), all.colour);
  int64_t ground = 0;  // bytes of a sample's background
  if (background) {
    require(background->ndim() == 5 && background->shape(0) == samples &&
                (background->shape(1) == frames || background->shape(1) == 1) && background->shape(2) == h &&
                background->shape(3) == w && background->shape(4) == channels,
            "background must be [N, F or 1, h, w, C]");
    all.background_stride = background->shape(1) == 1 ? 0 : h * w * channels;
    ground = background->shape(1) * h * w * channels;
  }
  const int64_t area = int64_t{h} * w * dtype.itemsize(), picture = images.size() / samples;
  const bool shared = images.shape(1) == 1;
  py::gil_scoped_release release;
  tpc::parallel_for(samples, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      tpc::WarpSource source(images.data() + i * picture, shared, masks.data() + i * persons * height * width, persons,
                             height, width, static_cast<int>(channels));
      tpc::WarpJob job = all;
      job.matrix = matrix.data() + i * frames * persons * 6;
      job.image = to_image + i * frames * persons * channels * area;
      job.mask = to_mask + i * frames * persons * area;
      job.composite = to_composite == nullptr ? nullptr : to_composite + i * frames * channels * area;
      job.background = background ? background->data() + i * ground : nullptr;
      tpc::warp_composite(source, job);
    }
  });
}

// pixels: [H, W] or [H, W, 3]; `rgb` makes grey ones RGB. Returns an array that starts with the stream, and its size.
py::tuple deflate_picture(const Array<uint8_t>& pixels, bool rgb) {
  require(pixels.size() > 0 && (pixels.ndim() == 2 || (pixels.ndim() == 3 && pixels.shape(2) == 3)),
          "pixels must be [H, W] or [H, W, 3]");
  const int64_t height = pixels.shape(0), row = pixels.size() / height;
  const int repeat = rgb && pixels.ndim() == 2 ? 3 : 1;
  Array<uint8_t> out(tpc::deflated_bound(height, row, repeat));
  uint8_t* to = out.mutable_data();
  int64_t size = 0;
  {
    py::gil_scoped_release release;
    size = tpc::deflate_picture(pixels.data(), height, row, repeat, to);
  }
  return py::make_tuple(out, size);
}

// image: [H, W] or [H, W, 3], of even sides; y: [H, >= W]; u, v: [H / 2, >= W / 2] each, which are written.
void rgb_to_yuv(const Array<uint8_t>& image, Array<uint8_t>& y, Array<uint8_t>& u, Array<uint8_t>& v) {
  require(image.ndim() == 2 || (image.ndim() == 3 && image.shape(2) == 3), "image must be [H, W] or [H, W, 3]");
  const int64_t height = image.shape(0), width = image.shape(1);
  require(height % 2 == 0 && width % 2 == 0, "sides must be even");
  const auto holds = [](const Array<uint8_t>& plane, int64_t rows, int64_t columns) {
    return plane.ndim() == 2 && plane.shape(0) == rows && plane.shape(1) >= columns;
  };
  require(holds(y, height, width) && holds(u, height / 2, width / 2) && holds(v, height / 2, width / 2), "planes are too small");
  const tpc::YuvJob job{image.data(), height, width, image.ndim() == 3 ? 3 : 1, y.mutable_data(), u.mutable_data(),
                        v.mutable_data(), y.shape(1), u.shape(1), v.shape(1)};
  py::gil_scoped_release release;
  tpc::rgb_to_yuv(job);
}

// pictures: [P, H, W] or [P, H, W, 3], sides multiples of factor -> [P, H / factor, W / factor] or [..., 3].
Array<uint8_t> shrink(const Array<uint8_t>& pictures, int factor) {
  require(pictures.ndim() == 3 || (pictures.ndim() == 4 && pictures.shape(3) == 3), "pictures must be [P, H, W] or [P, H, W, 3]");
  require(2 <= factor && factor <= 4, "factor must be 2, 3 or 4");
  require(pictures.shape(1) % factor == 0 && pictures.shape(2) % factor == 0, "sides must be multiples of factor");
  const int64_t height = pictures.shape(1) / factor, width = pictures.shape(2) / factor;
  const int channels = pictures.ndim() == 4 ? 3 : 1;
  std::vector<int64_t> shape{pictures.shape(0), height, width};
  if (channels == 3) shape.push_back(3);
  Array<uint8_t> out(shape);
  uint8_t* const to = out.mutable_data();
  const int64_t values = height * width * channels;
  {
    py::gil_scoped_release release;
    for (int64_t i = 0; i < shape[0]; ++i)
      tpc::shrink(pictures.data() + i * values * factor * factor, height, width, channels, factor, to + i * values);
  }
  return out;
}

// pictures: [P, H, W, 3]; masks: [P, H, W]; order: from back to front; ground: [H, W, 3], over which they are laid.
void lay_over(const Array<uint8_t>& pictures, const Array<uint8_t>& masks, const std::vector<int64_t>& order,
              Array<uint8_t>& ground) {
  require(masks.ndim() == 3 && pictures.size() == 3 * masks.size() && ground.size() * masks.shape(0) == pictures.size(),
          "pictures, masks and ground differ");
  const int64_t pixels = masks.shape(1) * masks.shape(2);
  uint8_t* const to = ground.mutable_data();
  for (const int64_t i : order) require(0 <= i && i < masks.shape(0), "order must name pictures");
  py::gil_scoped_release release;
  for (const int64_t i : order) tpc::lay_over(pictures.data() + 3 * i * pixels, masks.data() + i * pixels, pixels, to);
}

// one, other: of one size -> pixels of 128 or more in both, in the first, in the second.
std::array<int64_t, 3> mask_areas(const Array<uint8_t>& one, const Array<uint8_t>& other) {
  require(one.size() == other.size(), "masks differ in size");
  py::gil_scoped_release release;
  const tpc::Areas areas = tpc::mask_areas(one.data(), other.data(), one.size());
  return {areas.both, areas.one, areas.other};
}

// picture: [h, w, 3], in place; masks: [P, H, W]; colours: [P, 3]; discs: [N, 6], x, y, radius, R, G, B.
void draw_marks(Array<uint8_t>& picture, const Array<uint8_t>& masks, const Array<uint8_t>& colours, const Array<double>& discs,
                double dark) {
  require(picture.ndim() == 3 && picture.shape(2) == 3, "picture must be [h, w, 3]");
  require(masks.ndim() == 3 && masks.shape(1) > 0 && masks.shape(2) > 0, "masks must be [P, H, W]");
  require(colours.size() == 3 * masks.shape(0), "colours must be [P, 3]");
  require(discs.ndim() == 2 && discs.shape(1) == 6, "discs must be [N, 6]");
  const int64_t height = picture.shape(0), width = picture.shape(1);
  uint8_t* const to = picture.mutable_data();
  py::gil_scoped_release release;
  for (int64_t p = 0; p < masks.shape(0); ++p)
    tpc::draw_outline(masks.data() + p * masks.shape(1) * masks.shape(2), masks.shape(1), masks.shape(2), colours.data() + 3 * p,
                      height, width, to);
  for (int64_t i = 0; i < discs.shape(0); ++i) {
    const double* d = discs.data() + 6 * i;
    tpc::draw_disc({d[0], d[1], d[2], {d[3], d[4], d[5]}}, dark, height, width, to);
  }
}

// image: [S, C, H, W]; inverse: [S, M, 2, 3]; share: [S, M].
template <typename T>
tpc::SampleJob<T> sample_job(const Array<T>& image, const Array<double>& inverse, const Array<double>& share, int64_t height,
                             int64_t width, int taps) {
  require(image.ndim() == 4 && share.ndim() == 2 && share.shape(0) == image.shape(0), "image must be [S, C, H, W]");
  require(inverse.size() == 6 * share.size(), "inverse must be [S, M, 2, 3]");
  require(image.shape(2) > 0 && image.shape(3) > 0 && height > 0 && width > 0, "no side may be 0");
  require(taps == 1 || taps == 2 || taps == 4, "taps must be 1, 2 or 4");
  return {image.shape(0), share.shape(1), image.shape(1), image.shape(2), image.shape(3), height, width, taps,
          image.data(), inverse.data(), share.data()};
}

template <typename T>
Array<T> sample_pictures(const Array<T>& image, const Array<double>& inverse, const Array<double>& share, int64_t height,
                         int64_t width, int taps) {
  const tpc::SampleJob<T> job = sample_job(image, inverse, share, height, width, taps);
  Array<T> out({job.pictures, job.maps, job.channels, height, width});
  T* const pixels = out.mutable_data();
  {
    py::gil_scoped_release release;
    tpc::sample_pictures(job, pixels);
  }
  return out;
}

// The gradients with respect to image, and to inverse and share; None where they are not asked for.
template <typename T>
py::tuple sample_gradients(const Array<T>& image, const Array<double>& inverse, const Array<double>& share, int taps,
                           const Array<T>& wanted, bool of_image, bool of_maps) {
  require(wanted.ndim() == 5, "wanted must be [S, M, C, h, w]");
  const tpc::SampleJob<T> job = sample_job(image, inverse, share, wanted.shape(3), wanted.shape(4), taps);
  require(wanted.shape(0) == job.pictures && wanted.shape(1) == job.maps && wanted.shape(2) == job.channels,
          "wanted must be [S, M, C, h, w]");
  std::optional<Array<T>> by_image;
  std::optional<Array<double>> by_inverse, by_share;
  tpc::SampleGradients<T> out{};
  if (of_image) out.image = by_image.emplace(std::vector<py::ssize_t>(image.shape(), image.shape() + 4)).mutable_data();
  if (of_maps) {
    out.inverse = by_inverse.emplace(std::vector<py::ssize_t>(inverse.shape(), inverse.shape() + 4)).mutable_data();
    out.share = by_share.emplace(std::vector<py::ssize_t>(share.shape(), share.shape() + 2)).mutable_data();
  }
  {
    py::gil_scoped_release release;
    tpc::sample_gradients(job, wanted.data(), out);
  }
  return py::make_tuple(by_image, by_inverse, by_share);
}

template <typename T>
void bind_sample(py::module_& m) {
  m.def("sample_pictures", &sample_pictures<T>, py::arg("image").noconvert(), py::arg("inverse").noconvert(),
        py::arg("share").noconvert(), py::arg("height"), py::arg("width"), py::arg("taps"));
  m.def("sample_gradients", &sample_gradients<T>, py::arg("image").noconvert(), py::arg("inverse").noconvert(),
        py::arg("share").noconvert(), py::arg("taps"), py::arg("wanted").noconvert(), py::arg("of_image"),
        py::arg("of_maps"));
}

// image: [H, W, C], C = 1 or 3; inverse: [2, 3] -> [height, width, C].
Array<uint8_t> resample(const Array<uint8_t>& image, const Array<double>& inverse, int64_t height, int64_t width,
                        int64_t shrink, bool repeat) {
  require(image.ndim() == 3 && image.size() > 0 && (image.shape(2) == 1 || image.shape(2) == 3),
          "image must be [H, W, 1] or [H, W, 3]");
  require(inverse.ndim() == 2 && inverse.shape(0) == 2 && inverse.shape(1) == 3, "inverse must be [2, 3]");
  require(height >= 0 && width >= 0, "size must not be negative");
  require(shrink >= 1 && shrink <= std::min(image.shape(0), image.shape(1)), "shrink must be from 1 to the shorter side");
  tpc::ResampleJob job{image.data(), image.shape(0), image.shape(1), image.shape(2), {}, shrink, repeat, height, width, nullptr};
  std::copy(inverse.data(), inverse.data() + 6, job.inverse);
  Array<uint8_t> out({height, width, job.channels});
  job.out = out.mutable_data();
  {
    py::gil_scoped_release release;
    tpc::resample(job);
  }
  return out;
}

// features: [h, w, 8], earlier: [2 h, 2 w, 8], and the layers' weights, see mask_head.h -> [4 h, 4 w].
Array<uint8_t> mask_head(const Array<float>& features, const Array<float>& earlier, const Array<float>& weights) {
  require(features.ndim() == 3 && features.shape(2) == tpc::kMaskFeatures, "features must be [h, w, 8]");
  const int64_t height = features.shape(0), width = features.shape(1);
  require(earlier.ndim() == 3 && earlier.shape(0) == 2 * height && earlier.shape(1) == 2 * width &&
              earlier.shape(2) == tpc::kMaskFeatures,
          "earlier must be [2 h, 2 w, 8]");
  require(weights.ndim() == 1 && weights.size() == tpc::kMaskWeights, "weights are not as many as the layers have");
  Array<uint8_t> out({4 * height, 4 * width});
  const tpc::MaskHeadJob job{features.data(), earlier.data(), height, width, weights.data(), out.mutable_data()};
  {
    py::gil_scoped_release release;
    tpc::mask_head(job);
  }
  return out;
}

// The persons of a frame and those who are known; see people.h. A few hundred operations: the GIL stays.
tpc::Known known_people(Array<double>& points, Array<bool>& known, Array<double>& velocity, Array<double>& last,
                        Array<double>& bounds) {
  const py::ssize_t t = last.size(), k = known.ndim() == 2 ? known.shape(1) : 0;
  require(known.size() == t * k && points.size() == t * k * 2 && velocity.size() == t * 2 && bounds.size() == t * 5,
          "known persons differ in number");
  return {t, points.mutable_data(), known.mutable_data(), velocity.mutable_data(), last.mutable_data(),
          bounds.mutable_data()};
}

tpc::Seen seen_people(const Array<double>& points, const Array<bool>& seen, const Array<double>& bounds, double time,
                      const Array<int64_t>& mirrored, int64_t good) {
  require(seen.ndim() == 2 && points.size() == seen.size() * 2 && bounds.size() == seen.shape(0) * 5 &&
              mirrored.size() == seen.shape(1),
          "seen persons differ in number");
  for (py::ssize_t k = 0; k < mirrored.size(); ++k)
    require(mirrored.data()[k] >= 0 && mirrored.data()[k] < mirrored.size(), "mirrored must name keypoints");
  return {seen.shape(0), seen.shape(1), points.data(), seen.data(), bounds.data(), time, mirrored.data(), good};
}

Array<bool> seen_points(const Array<double>& points, const Array<double>& scores, double threshold) {
  require(points.size() == scores.size() * 2, "sizes differ");
  Array<bool> seen(std::vector<py::ssize_t>(scores.shape(), scores.shape() + scores.ndim()));
  tpc::seen_points(scores.size(), points.data(), scores.data(), threshold, seen.mutable_data());
  return seen;
}

Array<double> person_bounds(const Array<double>& points, const Array<bool>& seen, int64_t body) {
  require(seen.ndim() == 2 && points.size() == seen.size() * 2 && body >= 0 && body <= seen.shape(1), "sizes differ");
  Array<double> bounds({seen.shape(0), py::ssize_t{5}});
  tpc::person_bounds(seen.shape(0), seen.shape(1), points.data(), seen.data(), body, bounds.mutable_data());
  return bounds;
}

py::tuple pair_costs(Array<double> points, Array<bool> known, Array<double> velocity, Array<double> last,
                     Array<double> bounds, const Array<double>& theirs, const Array<bool>& seen,
                     const Array<double>& their_bounds, double time, const Array<int64_t>& mirrored, int64_t good,
                     const std::array<double, 7>& p) {
  const tpc::Known a = known_people(points, known, velocity, last, bounds);
  const tpc::Seen b = seen_people(theirs, seen, their_bounds, time, mirrored, good);
  require(known.shape(1) == b.keypoints, "keypoints differ in number");
  Array<double> distances({a.count, b.count, int64_t{2}}), cost({a.count, b.count});
  tpc::pair_costs(a, b, {p[0], p[1], p[2], p[3], p[4], p[5], p[6]}, distances.mutable_data(), cost.mutable_data());
  return py::make_tuple(distances, cost);
}

void follow(Array<double> points, Array<bool> known, Array<double> velocity, Array<double> last, Array<double> bounds,
            const Array<double>& theirs, const Array<bool>& seen, const Array<double>& their_bounds, double time,
            const Array<int64_t>& mirrored, int64_t good, const Array<int64_t>& tracks, const Array<int64_t>& found,
            const Array<bool>& exchanged, double velocity_seconds, double size_seconds) {
  const tpc::Known a = known_people(points, known, velocity, last, bounds);
  const tpc::Seen b = seen_people(theirs, seen, their_bounds, time, mirrored, good);
  const py::ssize_t pairs = tracks.size();
  require(known.shape(1) == b.keypoints && found.size() == pairs && exchanged.size() == pairs, "pairs differ in number");
  for (py::ssize_t i = 0; i < pairs; ++i)
    require(tracks.data()[i] >= 0 && tracks.data()[i] < a.count && found.data()[i] >= 0 && found.data()[i] < b.count,
            "pairs must name persons");
  tpc::follow(a, b, pairs, tracks.data(), found.data(), exchanged.data(), velocity_seconds, size_seconds);
}

// Photos of P persons: sides [P, 2, K, 2], scores, seen [P, 2, K], assumed [P, K], body [P, 4] (angle, size, anchor).
std::vector<tpc::TrackPhoto> track_photos(const Array<double>& sides, const Array<double>& scores,
                                          const Array<bool>& seen, const Array<bool>& assumed,
                                          const Array<double>& body) {
  constexpr py::ssize_t k = tpc::kTrackPoints;
  require(body.ndim() == 2 && body.shape(1) == 4, "body must be [P, 4]");
  const py::ssize_t persons = body.shape(0);
  require(sides.size() == persons * 4 * k && scores.size() == persons * 2 * k && seen.size() == persons * 2 * k &&
              assumed.size() == persons * k,
          "photos differ in size");
  std::vector<tpc::TrackPhoto> photos(persons);
  for (py::ssize_t p = 0; p < persons; ++p) {
    std::copy_n(sides.data() + p * 4 * k, 4 * k, &photos[p].sides[0][0][0]);
    std::copy_n(scores.data() + p * 2 * k, 2 * k, &photos[p].scores[0][0]);
    std::copy_n(seen.data() + p * 2 * k, 2 * k, &photos[p].seen[0][0]);
    std::copy_n(assumed.data() + p * k, k, photos[p].assumed);
    photos[p].angle = body.data()[4 * p];
    photos[p].size = body.data()[4 * p + 1];
    std::copy_n(body.data() + 4 * p + 2, 2, photos[p].anchor);
  }
  return photos;
}

// Frames of P persons: points [P, F, K, 2], zero where not seen; scores, seen [P, F, K]; times [F].
std::vector<tpc::TrackFrames> track_frames(const Array<double>& times, const Array<double>& points,
                                           const Array<double>& scores, const Array<bool>& seen, py::ssize_t persons) {
  constexpr py::ssize_t k = tpc::kTrackPoints;
  const py::ssize_t frames = times.size();
  require(points.size() == persons * frames * k * 2 && scores.size() == persons * frames * k &&
              seen.size() == scores.size(),
          "frames differ in size");
  std::vector<tpc::TrackFrames> out(persons);
  for (py::ssize_t p = 0; p < persons; ++p)
    out[p] = {frames, times.data(), points.data() + p * frames * k * 2, scores.data() + p * frames * k,
              seen.data() + p * frames * k};
  return out;
}

tpc::TrackPicture track_picture(const std::array<double, 4>& edges) {
  return {edges[0], edges[1], edges[2], edges[3]};
}

// sizes, weights [P, F]; rows [P, F, C, 6], counts [P, F].
py::tuple track_candidates(const tpc::TrackSettings& s, const Array<double>& sides, const Array<double>& side_scores,
                           const Array<bool>& side_seen, const Array<bool>& assumed, const Array<double>& body,
                           const Array<double>& times, const Array<double>& points, const Array<double>& scores,
                           const Array<bool>& seen) {
  const auto photos = track_photos(sides, side_scores, side_seen, assumed, body);
  const py::ssize_t persons = static_cast<py::ssize_t>(photos.size()), count = times.size();
  const auto frames = track_frames(times, points, scores, seen, persons);
  Array<double> sizes({persons, count}), weights({persons, count});
  Array<double> rows({persons, count, py::ssize_t{tpc::kMaxTrackCandidates}, py::ssize_t{tpc::kTrackRow}});
  Array<int64_t> counts({persons, count});
  double *to_sizes = sizes.mutable_data(), *to_weights = weights.mutable_data(), *to_rows = rows.mutable_data();
  int64_t* to_counts = counts.mutable_data();
  {
    py::gil_scoped_release release;
    tpc::track_candidates(s, persons, photos.data(), frames.data(), to_sizes, to_weights, to_rows, to_counts);
  }
  return py::make_tuple(sizes, weights, rows, counts);
}

// chosen, breaks [P, F].
py::tuple track_path(const tpc::TrackSettings& s, const Array<double>& times, const Array<double>& sizes,
                     const Array<double>& rows, const Array<int64_t>& counts) {
  require(counts.ndim() == 2 && counts.shape(1) == times.size() && sizes.size() == counts.size() &&
              rows.size() == counts.size() * tpc::kMaxTrackCandidates * tpc::kTrackRow,
          "candidates differ in size");
  const py::ssize_t persons = counts.shape(0), count = counts.shape(1);
  Array<int64_t> chosen({persons, count});
  Array<bool> breaks({persons, count});
  int64_t* to_chosen = chosen.mutable_data();
  bool* to_breaks = breaks.mutable_data();
  {
    py::gil_scoped_release release;
    tpc::parallel_for(persons, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p)
        tpc::track_path(s, count, times.data(), sizes.data() + p * count,
                        rows.data() + p * count * tpc::kMaxTrackCandidates * tpc::kTrackRow, counts.data() + p * count,
                        to_chosen + p * count, to_breaks + p * count);
    });
  }
  return py::make_tuple(chosen, breaks);
}

// side [P, F], states [P, F, 4], robust [P, F, K], information [P, F, 3], iterations [P].
py::tuple track_refine(const tpc::TrackSettings& s, const Array<double>& sides, const Array<double>& side_scores,
                       const Array<bool>& side_seen, const Array<bool>& assumed, const Array<double>& body,
                       const Array<double>& times, const Array<double>& points, const Array<double>& scores,
                       const Array<bool>& seen, const Array<double>& sizes, const Array<double>& weights,
                       const Array<double>& rows, const Array<int64_t>& chosen, const Array<bool>& breaks,
                       const std::array<double, 4>& edges) {
  constexpr py::ssize_t k = tpc::kTrackPoints, n = tpc::kTrackState;
  constexpr int64_t row = tpc::kMaxTrackCandidates * tpc::kTrackRow;
  const auto photos = track_photos(sides, side_scores, side_seen, assumed, body);
  const py::ssize_t persons = static_cast<py::ssize_t>(photos.size()), count = times.size();
  const auto frames = track_frames(times, points, scores, seen, persons);
  require(sizes.size() == persons * count && weights.size() == persons * count &&
              rows.size() == persons * count * row && chosen.size() == persons * count &&
              breaks.size() == persons * count,
          "the path differs in size");
  Array<int64_t> side({persons, count}), iterations(persons);
  Array<double> states({persons, count, n}), robust({persons, count, k}), information({persons, count, py::ssize_t{3}});
  int64_t *to_side = side.mutable_data(), *to_iterations = iterations.mutable_data();
  double *to_states = states.mutable_data(), *to_robust = robust.mutable_data();
  double* to_information = information.mutable_data();
  {
    py::gil_scoped_release release;
    tpc::parallel_for(persons, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p)
        to_iterations[p] = tpc::track_refine(
            s, photos[p], frames[p], sizes.data() + p * count, weights.data() + p * count,
            rows.data() + p * count * row, chosen.data() + p * count, breaks.data() + p * count,
            track_picture(edges), to_side + p * count, to_states + p * count * n, to_robust + p * count * k, to_information + p * count * 3);
    });
  }
  return py::make_tuple(side, states, robust, information, iterations);
}

// One stream per person; a step of all of them.
struct TrackStreams {
  std::vector<std::unique_ptr<tpc::TrackStream>> streams;

  TrackStreams(const tpc::TrackSettings& s, const Array<double>& sides, const Array<double>& scores,
               const Array<bool>& seen, const Array<bool>& assumed, const Array<double>& body, int lag) {
    for (const tpc::TrackPhoto& photo : track_photos(sides, scores, seen, assumed, body))
      streams.push_back(std::make_unique<tpc::TrackStream>(s, photo, lag));
  }

  void reset() {
    for (auto& stream : streams) stream->reset();
  }

  // side [P] int64; broke [P]; size, residual [P]; states [P, 4], information [P, 3], robust [P, K], matrices [P, 2, 3].
  py::tuple gather(const std::vector<tpc::TrackStream::Step>& steps) const {
    constexpr py::ssize_t k = tpc::kTrackPoints, n = tpc::kTrackState;
    const py::ssize_t persons = static_cast<py::ssize_t>(steps.size());
    Array<int64_t> side(persons);
    Array<bool> broke(persons);
    Array<double> size(persons), residual(persons), states({persons, n}), information({persons, py::ssize_t{3}}),
        robust({persons, k}), matrices({persons, py::ssize_t{2}, py::ssize_t{3}});
    for (py::ssize_t p = 0; p < persons; ++p) {
      const tpc::TrackStream::Step& step = steps[p];
      side.mutable_data()[p] = step.side;
      broke.mutable_data()[p] = step.broke;
      size.mutable_data()[p] = step.size;
      residual.mutable_data()[p] = step.residual;
      std::copy_n(step.state, n, states.mutable_data() + p * n);
      std::copy_n(step.information, 3, information.mutable_data() + p * 3);
      std::copy_n(step.robust, k, robust.mutable_data() + p * k);
      std::copy_n(step.matrix, 6, matrices.mutable_data() + p * 6);
    }
    return py::make_tuple(side, broke, size, residual, states, information, robust, matrices);
  }

  py::tuple step(double time, const Array<double>& points, const Array<double>& scores, const Array<bool>& seen,
                 const std::array<double, 4>& edges) {
    constexpr py::ssize_t k = tpc::kTrackPoints;
    const py::ssize_t persons = static_cast<py::ssize_t>(streams.size());
    require(points.size() == persons * k * 2 && scores.size() == persons * k && seen.size() == persons * k,
            "sizes differ");
    std::vector<tpc::TrackStream::Step> steps(persons);
    {
      py::gil_scoped_release release;
      tpc::parallel_for(persons, 1, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p)
          steps[p] = streams[p]->step(time, points.data() + p * k * 2, scores.data() + p * k, seen.data() + p * k,
                                      track_picture(edges));
      });
    }
    return gather(steps);
  }

  py::tuple at(int64_t back) const {
    std::vector<tpc::TrackStream::Step> steps;
    for (const auto& stream : streams) steps.push_back(stream->at(back));
    return gather(steps);
  }
};

// Settings by name; arrays as lists.
void set_track_numbers(double* to, const std::vector<double>& values, size_t count) {
  require(values.size() == count, "a setting has a wrong number of values");
  std::copy(values.begin(), values.end(), to);
}

int set_track_parts(bool (*to)[tpc::kTrackPoints], const std::vector<std::vector<bool>>& parts) {
  require(parts.size() <= static_cast<size_t>(tpc::kMaxTrackParts), "too many parts");
  for (size_t i = 0; i < parts.size(); ++i) {
    require(parts[i].size() == static_cast<size_t>(tpc::kTrackPoints), "a part must name all keypoints");
    std::copy(parts[i].begin(), parts[i].end(), to[i]);
  }
  return static_cast<int>(parts.size());
}

void bind_track(py::module_& m) {
  using S = tpc::TrackSettings;
  py::class_<S> settings(m, "TrackSettings");
  settings.def(py::init<>());
  const auto numbers = [&](const char* name, auto member, size_t count) {
    settings.def_property(name, nullptr, [member, count](S& s, const std::vector<double>& v) {
      set_track_numbers(s.*member, v, count);
    });
  };
  numbers("tolerance", &S::tolerance, tpc::kTrackPoints);
  numbers("part_weights", &S::part_weights, tpc::kTrackPoints);
  numbers("path_log_scale", &S::path_log_scale, 2);
  numbers("path_angle", &S::path_angle, 2);
  numbers("path_position", &S::path_position, 2);
  numbers("walk", &S::walk, tpc::kTrackState);
  numbers("acceleration", &S::acceleration, tpc::kTrackState);
  settings.def_property("candidate_parts", nullptr, [](S& s, const std::vector<std::vector<bool>>& parts) {
    s.parts = set_track_parts(s.candidate_parts, parts);
  });
  settings.def_property("size_parts", nullptr, [](S& s, const std::vector<std::vector<bool>>& parts) {
    s.size_parts = set_track_parts(s.pair_parts, parts);
  });
  for (auto [name, member] : std::initializer_list<std::pair<const char*, double S::*>>{
           {"tolerance_sigmas", &S::tolerance_sigmas},
           {"across", &S::across},
           {"correlation_seconds", &S::correlation_seconds},
           {"least_weight", &S::least_weight},
           {"misfit", &S::misfit},
           {"upright", &S::upright},
           {"size_seconds", &S::size_seconds},
           {"least_seconds", &S::least_seconds},
           {"path_side", &S::path_side},
           {"path_break", &S::path_break},
           {"converged", &S::converged},
           {"ridge", &S::ridge},
           {"candidate_weight", &S::candidate_weight},
           {"window_seconds", &S::window_seconds}})
    settings.def_readwrite(name, member);
  for (auto [name, member] : std::initializer_list<std::pair<const char*, int S::*>>{
           {"search", &S::search},
           {"search_least", &S::search_least},
           {"search_size", &S::search_size},
           {"size_frames", &S::size_frames},
           {"path_frames", &S::path_frames},
           {"iterations", &S::iterations},
           {"robust", &S::robust},
           {"window_frames", &S::window_frames},
           {"warm_iterations", &S::warm_iterations}})
    settings.def_readwrite(name, member);
  m.def("track_candidates", &track_candidates);
  m.def("track_path", &track_path);
  m.def("track_refine", &track_refine);
  py::class_<TrackStreams>(m, "TrackStreams")
      .def(py::init<const S&, const Array<double>&, const Array<double>&, const Array<bool>&, const Array<bool>&,
                    const Array<double>&, int>())
      .def("reset", &TrackStreams::reset)
      .def("step", &TrackStreams::step)
      .def("at", &TrackStreams::at);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled core of tpc_fast; call it through the Python API, which checks the arguments.";
  m.def("get_num_threads", &tpc::num_threads);
  m.def("set_num_threads", &tpc::set_num_threads, py::arg("count"));
  m.def("set_sharing", &tpc::set_sharing, py::arg("on"), "Whether this thread's calls use the other threads too.");
  m.def("simd_level", [] { return kSimdNames[static_cast<int>(tpc::simd())]; });
  m.def("simd_levels", &simd_levels, "What this processor can run, slowest first.");
  m.def("force_simd", &force_simd, py::arg("level"));
  m.def("fit_similarity", &fit_similarity<float>, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("weights").noconvert());
  m.def("fit_similarity", &fit_similarity<double>, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("weights").noconvert());
  m.def("fit_leaving_out", &fit_leaving_out<float>, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("weights").noconvert());
  m.def("fit_leaving_out", &fit_leaving_out<double>, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("weights").noconvert());
  m.def("search_subset", &search_subset, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("tolerance").noconvert(), py::arg("valid").noconvert(), py::arg("prior").noconvert(),
        py::arg("previous").noconvert(), py::arg("inertia").noconvert(), py::arg("size"));
  m.def("search_many", &search_many, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("tolerance").noconvert(), py::arg("valid").noconvert(), py::arg("prior").noconvert(),
        py::arg("previous").noconvert(), py::arg("inertia").noconvert(), py::arg("size"), py::arg("most_boxes"));
  m.def("search_3d", &search_3d, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("tolerance").noconvert(), py::arg("valid").noconvert(), py::arg("prior").noconvert(),
        py::arg("previous").noconvert(), py::arg("inertia").noconvert(), py::arg("size"));
  m.def("fit_linear_map", &fit_linear_map, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("weights").noconvert(), py::arg("model"), py::arg("floor"));
  m.def("search_transform", &search_transform, py::arg("src").noconvert(), py::arg("dst").noconvert(),
        py::arg("tolerance").noconvert(), py::arg("valid").noconvert(), py::arg("prior").noconvert(),
        py::arg("previous").noconvert(), py::arg("inertia").noconvert(), py::arg("model"), py::arg("size"));
  m.def("seen_points", &seen_points, py::arg("points").noconvert(), py::arg("scores").noconvert(),
        py::arg("threshold"));
  m.def("person_bounds", &person_bounds, py::arg("points").noconvert(), py::arg("seen").noconvert(), py::arg("body"));
  m.def("pair_costs", &pair_costs, py::arg("points").noconvert(), py::arg("known").noconvert(),
        py::arg("velocity").noconvert(), py::arg("last").noconvert(), py::arg("bounds").noconvert(),
        py::arg("theirs").noconvert(), py::arg("seen").noconvert(), py::arg("their_bounds").noconvert(),
        py::arg("time"), py::arg("mirrored").noconvert(), py::arg("good"), py::arg("prices"));
  m.def("follow", &follow, py::arg("points").noconvert(), py::arg("known").noconvert(),
        py::arg("velocity").noconvert(), py::arg("last").noconvert(), py::arg("bounds").noconvert(),
        py::arg("theirs").noconvert(), py::arg("seen").noconvert(), py::arg("their_bounds").noconvert(),
        py::arg("time"), py::arg("mirrored").noconvert(), py::arg("good"), py::arg("tracks").noconvert(),
        py::arg("found").noconvert(), py::arg("exchanged").noconvert(), py::arg("velocity_seconds"),
        py::arg("size_seconds"));
  bind_quick(m);
  bind_track(m);
  m.def("deflate_picture", &deflate_picture, py::arg("pixels").noconvert(), py::arg("rgb"));
  m.def("draw_marks", &draw_marks, py::arg("picture").noconvert(), py::arg("masks").noconvert(),
        py::arg("colours").noconvert(), py::arg("discs").noconvert(), py::arg("dark"));
  m.def("lay_over", &lay_over, py::arg("pictures").noconvert(), py::arg("masks").noconvert(), py::arg("order"),
        py::arg("ground").noconvert());
  m.def("mask_areas", &mask_areas, py::arg("one").noconvert(), py::arg("other").noconvert());
  m.def("mask_head", &mask_head, py::arg("features").noconvert(), py::arg("earlier").noconvert(),
        py::arg("weights").noconvert());
  m.def("rgb_to_yuv", &rgb_to_yuv, py::arg("image").noconvert(), py::arg("y").noconvert(), py::arg("u").noconvert(),
        py::arg("v").noconvert());
  m.def("shrink", &shrink, py::arg("pictures").noconvert(), py::arg("factor"));
  m.def("resample", &resample, py::arg("image").noconvert(), py::arg("inverse").noconvert(), py::arg("height"),
        py::arg("width"), py::arg("shrink"), py::arg("repeat"));
  bind_sample<float>(m);
  bind_sample<double>(m);
  m.def("warp_samples", &warp_samples, py::arg("images").noconvert(), py::arg("masks").noconvert(),
        py::arg("matrix").noconvert(), py::arg("interpolation"), py::arg("antialias"), py::arg("colour"),
        py::arg("background").noconvert(), py::arg("image"), py::arg("mask"), py::arg("composite"));
  py::class_<tpc::WarpSource>(m, "WarpSource")
      .def(py::init(&warp_source), py::arg("image").noconvert(), py::arg("mask").noconvert())
      .def("warp", &warp_composite, py::arg("matrix").noconvert(), py::arg("interpolation"), py::arg("antialias"),
           py::arg("colour"), py::arg("background").noconvert(), py::arg("image"), py::arg("mask"),
           py::arg("composite"));
}
