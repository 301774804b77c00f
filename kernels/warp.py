"""The affine warp of image and mask, fused with the composite, on the GPU. The specification is tpc_fast/naive.

References are packed into words of four bytes with a border of zeros, every pyramid level after the other. A program
makes a tile of one output frame: persons back to front, each sampled once or from two levels, or not at all where it
does not reach. A warp of threads covers 8 x 4 pixels, so that turned references, too, are read from few cache lines.
"""

import torch
import triton
import triton.language as tl
from tpc_fast.kernels.launch import OPTIONS, empty, on, operation

ALL_LEVELS = 32  # more than a pyramid has: tpc_fast.ops.warp.MAX_SIDE is 2^24
BORDER = 4  # taps of a pixel that is clamped out of the picture all fall on it
TILE_HEIGHT, TILE_WIDTH = 16, 32
MAX_COORDINATE = 1e15  # tpc_fast.ops.warp.MAX_COORDINATE: matrices beyond it, or their inverses, are none
MAX_STEP = 512.0  # reference pixels per output pixel: above it positions are computed in float64 one by one

# A word holds two channels where the mantissa of a float lies (bits 15 to 22 and 7 to 14) and, turned by 16 bits, two
# more. With the exponent of 1.0 beside it, a channel is read as 1 + value / 256 or 1 + value / 65536: there is no
# conversion, and sums of weights take the ones away again. The first has 15 bits below a level, the other one 7.


@triton.jit
def _pack(c0, c1, c2, c3):
    return (c0 << 15) | (c1 << 7) | (c2 << 31) | (c2 >> 1) | (c3 << 23)


@triton.jit
def _turned(word):
    return (word << 16) | (word >> 16)


@triton.jit
def _unpack(word):
    turned = _turned(word)
    return (word >> 15) & 255, (word >> 7) & 255, (turned >> 15) & 255, (turned >> 7) & 255


@triton.jit
def _load_word(pointer):
    return tl.load(pointer).to(tl.uint32, bitcast=True)


@triton.jit
def pack_kernel(image, mask, packed, pixels, height, width, image_step, CHANNELS: tl.constexpr, BORDER: tl.constexpr,
                BLOCK: tl.constexpr):  # fmt: skip
    """image [P or 1, H, W, C] and mask [P, H, W] to words [P, H + 2 BORDER, W + 2 BORDER], whose borders are zero."""
    person = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < pixels
    colours = image + person * image_step + i * CHANNELS
    c0 = tl.load(colours, inside, 0).to(tl.uint32)
    c1, c2 = c0 * 0, c0 * 0
    if CHANNELS == 3:
        c1 = tl.load(colours + 1, inside, 0).to(tl.uint32)
        c2 = tl.load(colours + 2, inside, 0).to(tl.uint32)
    c3 = tl.load(mask + person * pixels + i, inside, 0).to(tl.uint32)
    stride = width + 2 * BORDER
    at = person * (height + 2 * BORDER) * stride + (i // width + BORDER) * stride + i % width + BORDER
    tl.store(packed + at, _pack(c0, c1, c2, c3).to(tl.int32, bitcast=True), inside)


@triton.jit
def halve_kernel(
    fine, coarse, pixels, height, width, fine_stride, fine_size, BORDER: tl.constexpr, BLOCK: tl.constexpr
):
    """One pyramid level of `height` x `width` from the finer one: [1 3 3 1] / 8 both ways, decimated by two."""
    person = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < pixels
    y, x = i // width, i % width
    first = fine + person * fine_size + (2 * y - 1 + BORDER) * fine_stride + 2 * x - 1 + BORDER
    zero = tl.zeros([BLOCK], tl.uint32)
    s0, s1, s2, s3 = zero, zero, zero, zero
    for row in tl.static_range(4):
        for column in tl.static_range(4):
            word = tl.load(first + row * fine_stride + column, inside, 0).to(tl.uint32, bitcast=True)
            c0, c1, c2, c3 = _unpack(word)
            weight = (row * (3 - row) + 1) * (column * (3 - column) + 1)  # 1 3 3 1
            s0, s1, s2, s3 = s0 + weight * c0, s1 + weight * c1, s2 + weight * c2, s3 + weight * c3
    word = _pack((s0 + 32) >> 6, (s1 + 32) >> 6, (s2 + 32) >> 6, (s3 + 32) >> 6)
    stride = width + 2 * BORDER
    at = person * (height + 2 * BORDER) * stride + (y + BORDER) * stride + x + BORDER
    tl.store(coarse + at, word.to(tl.int32, bitcast=True), inside)


@triton.jit
def _weights(f, TAPS: tl.constexpr):
    """Of the taps around a pixel at fraction f: Keys' cubic convolution with a = -0.75, or linear."""
    t = 1 - f
    if TAPS == 4:
        bump = f * t
        w = (-0.75 * bump * t, t + bump * (1 - 1.25 * f), f + bump * (1 - 1.25 * t), -0.75 * bump * f)
    else:
        w = (t, f)
    return w


@triton.jit
def _as_float(word, one, MASK: tl.constexpr):
    return ((word & MASK) | one).to(tl.float32, bitcast=True)


@triton.jit
def _sample(origin, stride, column, row, fx, fy, one, TAPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Four channels in levels of 255 at pixels (column, row) plus fractions; `origin` is the level's pixel (0, 0)."""
    pointer = origin + (row * stride + column)
    if TAPS == 1:
        c0, c1, c2, c3 = _unpack(_load_word(pointer))
        v0, v1, v2, v3 = c0.to(tl.float32), c1.to(tl.float32), c2.to(tl.float32), c3.to(tl.float32)
    else:
        wx, wy = _weights(fx, TAPS), _weights(fy, TAPS)
        ones = wx[0] + wx[1]
        if TAPS == 4:
            ones += wx[2] + wx[3]
            pointer -= stride + 1
        zero = fx * 0
        v0, v1, v2, v3 = zero, zero, zero, zero
        for j in tl.static_range(TAPS):
            s0, s1, s2, s3 = -ones, -ones, -ones, -ones
            for i in tl.static_range(TAPS):
                word = _load_word(pointer + i)
                turned = _turned(word)
                s0 += wx[i] * _as_float(word, one, 0x7F8000)
                if CHANNELS == 3:
                    s1 += wx[i] * _as_float(word, one, 0x7F80)
                    s2 += wx[i] * _as_float(turned, one, 0x7F8000)
                s3 += wx[i] * _as_float(turned, one, 0x7F80)
            v0, v1, v2, v3 = v0 + wy[j] * s0, v1 + wy[j] * s1, v2 + wy[j] * s2, v3 + wy[j] * s3
            pointer += stride
        v0, v1, v2, v3 = v0 * 256, v1 * 65536, v2 * 256, v3 * 65536
    return v0, v1, v2, v3


@triton.jit
def _spans(at, along_x, along_y, low, high, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """Whether a coordinate that is `at` at a tile's first pixel lies between low and high anywhere on the tile."""
    across, down = along_x * (TILE_WIDTH - 1), along_y * (TILE_HEIGHT - 1)
    least = at + tl.minimum(across, 0.0) + tl.minimum(down, 0.0)
    most = at + tl.maximum(across, 0.0) + tl.maximum(down, 0.0)
    return (least < high) & (most > low)


@triton.jit
def _fixed(value):
    """32.32 fixed point, exact to 2^-32."""
    return (value * 4294967296.0).to(tl.int64)


@triton.jit
def _split(position):
    """Fixed point -> whole pixels and the fraction."""
    fraction = (position & 0xFFFFFFFF).to(tl.uint32)
    return (position >> 32).to(tl.int32), (fraction >> 8).to(tl.int32).to(tl.float32) * (1 / 16777216)


@triton.jit
def _split_exact(position):
    """The same from float64, wherever it lies."""
    position = tl.minimum(tl.maximum(position, -1073741824.0), 1073741824.0)
    whole = tl.floor(position)
    return whole.to(tl.int32), (position - whole).to(tl.float32)


@triton.jit
def _rows(value, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """A tile in the order of the threads -> [TILE_HEIGHT, TILE_WIDTH]."""
    value = tl.reshape(value, [TILE_HEIGHT // 4, TILE_WIDTH // 8, 4, 8])
    return tl.reshape(tl.permute(value, [0, 2, 1, 3]), [TILE_HEIGHT, TILE_WIDTH])


@triton.jit
def _byte(value):
    """Rounded to the nearest integer, half to even, by adding 1.5 * 2^23."""
    return ((value + 12582912.0).to(tl.uint32, bitcast=True)) & 255


@triton.jit
def _by_four(word, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """Four neighbours in a row each: tensors [TILE_HEIGHT * TILE_WIDTH / 4]."""
    even, odd = tl.split(tl.reshape(_rows(word, TILE_HEIGHT, TILE_WIDTH), [TILE_HEIGHT * TILE_WIDTH // 4, 2, 2]))
    w0, w2 = tl.split(even)
    w1, w3 = tl.split(odd)
    return w0, w1, w2, w3


@triton.jit
def _store_picture(
    out, index, top, left, x, y, height, width, pixels, v0, v1, v2, scale, shift, CHANNELS: tl.constexpr,
    BYTES: tl.constexpr, WORDS: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes a tile of picture number `index`: bytes [h, w, C], or values * scale + shift as numbers [C, h, w].

    WORDS: rows begin at multiples of four bytes, and `out` points to words.
    """
    if BYTES and WORDS:
        four = tl.arange(0, TILE_HEIGHT * TILE_WIDTH // 4)
        row, column = top + four // (TILE_WIDTH // 4), left + four % (TILE_WIDTH // 4) * 4
        inside = (row < height) & (column < width)
        at = (index * pixels + row.to(tl.int64) * width + column) // 4 * CHANNELS
        word = _byte(v0)
        if CHANNELS == 3:
            word |= (_byte(v1) << 8) | (_byte(v2) << 16)
        w0, w1, w2, w3 = _by_four(word, TILE_HEIGHT, TILE_WIDTH)
        if CHANNELS == 3:
            tl.store(out + at, (w0 | (w1 << 24)).to(tl.int32, bitcast=True), inside)
            tl.store(out + at + 1, ((w1 >> 8) | (w2 << 16)).to(tl.int32, bitcast=True), inside)
            tl.store(out + at + 2, ((w2 >> 16) | (w3 << 8)).to(tl.int32, bitcast=True), inside)
        else:
            tl.store(out + at, (w0 | (w1 << 8) | (w2 << 16) | (w3 << 24)).to(tl.int32, bitcast=True), inside)
    elif BYTES:
        inside = (y < height) & (x < width)
        at = (index * pixels + y.to(tl.int64) * width + x) * CHANNELS
        tl.store(out + at, _byte(v0).to(tl.uint8), inside)
        if CHANNELS == 3:
            tl.store(out + at + 1, _byte(v1).to(tl.uint8), inside)
            tl.store(out + at + 2, _byte(v2).to(tl.uint8), inside)
    else:
        kind = out.dtype.element_ty
        row, column = top + tl.arange(0, TILE_HEIGHT)[:, None], left + tl.arange(0, TILE_WIDTH)[None, :]
        inside = (row < height) & (column < width)
        at = index * CHANNELS * pixels + row.to(tl.int64) * width + column
        tl.store(out + at, _rows((v0 * scale + shift).to(kind), TILE_HEIGHT, TILE_WIDTH), inside)
        if CHANNELS == 3:
            tl.store(out + pixels + at, _rows((v1 * scale + shift).to(kind), TILE_HEIGHT, TILE_WIDTH), inside)
            tl.store(out + 2 * pixels + at, _rows((v2 * scale + shift).to(kind), TILE_HEIGHT, TILE_WIDTH), inside)


@triton.jit(do_not_specialize=["persons", "levels", "source_height", "source_width", "one", "background_step"])
def warp_composite_kernel(
    packed, matrix, image, mask, composite, background, colour0, colour1, colour2, background_step, persons, levels,
    source_height, source_width, height, width, pixels, tiles_x, tiles_y, one,
    TAPS: tl.constexpr, ANTIALIAS: tl.constexpr, CHANNELS: tl.constexpr, BYTES: tl.constexpr, WORDS: tl.constexpr,
    BORDER: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr, MAX_STEP: tl.constexpr,
    MAX_COORDINATE: tl.constexpr,
):  # fmt: skip
    """One tile of one frame.

    `one`: the bits of 1.0, as an argument so that masking and setting them is one instruction with one constant.
    """
    program = tl.program_id(0)
    frame = (program // (tiles_x * tiles_y)).to(tl.int64)
    top, left = program // tiles_x % tiles_y * TILE_HEIGHT, program % tiles_x * TILE_WIDTH
    # 8 x 4 pixels by 8 x 4 pixels, a warp of threads each
    i = tl.arange(0, TILE_HEIGHT * TILE_WIDTH)
    x = (i >> 5) % (TILE_WIDTH // 8) * 8 + (i & 7)
    y = (i >> 5) // (TILE_WIDTH // 8) * 4 + ((i >> 3) & 3)
    one = one.to(tl.uint32)
    zero = tl.zeros([TILE_HEIGHT * TILE_WIDTH], tl.float32)

    if composite is not None:
        if background is not None:
            inside = (top + y < height) & (left + x < width)
            under = background + frame * background_step + ((top + y).to(tl.int64) * width + left + x) * CHANNELS
            b0 = tl.load(under, inside, 0).to(tl.float32)
            b1, b2 = zero, zero
            if CHANNELS == 3:
                b1, b2 = tl.load(under + 1, inside, 0).to(tl.float32), tl.load(under + 2, inside, 0).to(tl.float32)
        else:
            b0, b1, b2 = zero + colour0, zero + colour1, zero + colour2

    for person in range(persons):
        index = frame * persons + person
        a, b, tx = _matrix_row(matrix + 6 * index)
        c, d, ty = _matrix_row(matrix + 6 * index + 3)
        det = a * d - b * c
        over = 1 / det
        xx, xy, x0 = d * over, -b * over, (b * ty - d * tx) * over
        yx, yy, y0 = -c * over, a * over, (c * tx - a * ty) * over
        largest = tl.maximum(tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d))),
                             tl.maximum(tl.abs(b * ty - d * tx), tl.abs(c * tx - a * ty)))  # fmt: skip
        sane = (largest <= MAX_COORDINATE * tl.abs(det)) & (tl.abs(det) < float("inf"))
        entries = tl.maximum(tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d))),
                             tl.maximum(tl.abs(tx), tl.abs(ty)))  # fmt: skip
        sane &= (largest - largest == 0) & (tx - tx == 0) & (ty - ty == 0) & (det != 0) & (entries <= MAX_COORDINATE)

        # Level l is a blur of variance (4^l - 1) / 4, and blending l and l + 1 gives (1 / s^2 - 1) / 4.
        shrink, level = tl.maximum(tl.abs(over), 1.0), program * 0
        views = 1
        if ANTIALIAS:
            for _ in range(levels - 1):
                smaller = shrink >= 4
                shrink, level = tl.where(smaller, shrink * 0.25, shrink), level + smaller.to(tl.int32)
            views = tl.where((shrink > 1) & (level < levels - 1), 2, 1)
        share = ((shrink - 1) / 3).to(tl.float32)
        views = tl.where(sane, views, 0)

        v0, v1, v2, v3 = zero, zero, zero, zero
        for view in range(views):
            level_here = level + view
            at, rows, columns = frame * 0, program * 0 + source_height, program * 0 + source_width
            for _ in range(level_here):
                at += (rows + 2 * BORDER).to(tl.int64) * (columns + 2 * BORDER) * persons
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
            stride = columns + 2 * BORDER
            size = (1 << level_here).to(tl.float64)
            inverse, centre = 1 / size, (size - 1) / 2
            # Where the tile's first pixel lies in the level, and the steps from pixel to pixel.
            kx, ky, lx, ly = xx * inverse, xy * inverse, yx * inverse, yy * inverse
            px = (xx * left + xy * top + (x0 - centre)) * inverse
            py = (yx * left + yy * top + (y0 - centre)) * inverse
            radius: tl.constexpr = 2 if TAPS == 4 else 1
            reached = _spans(px, kx, ky, -radius, columns - 1 + radius, TILE_HEIGHT, TILE_WIDTH)
            reached &= _spans(py, lx, ly, -radius, rows - 1 + radius, TILE_HEIGHT, TILE_WIDTH)
            if reached:
                if TAPS == 1:
                    px, py = px + 0.5, py + 0.5
                steep = tl.maximum(tl.maximum(tl.abs(kx), tl.abs(ky)), tl.maximum(tl.abs(lx), tl.abs(ly))) > MAX_STEP
                if steep:
                    column, fx = _split_exact(px + kx * x + ky * y)
                    row, fy = _split_exact(py + lx * x + ly * y)
                else:
                    column, fx = _split(_fixed(px) + _fixed(kx) * x + _fixed(ky) * y)
                    row, fy = _split(_fixed(py) + _fixed(lx) * x + _fixed(ly) * y)
                # Clamped such that every tap of a pixel out of reach falls on the border.
                column = tl.minimum(tl.maximum(column, -3), columns + 1)
                row = tl.minimum(tl.maximum(row, -3), rows + 1)
                origin = (
                    packed + at + (index - frame * persons) * (rows + 2 * BORDER) * stride + BORDER * stride + BORDER
                )
                s0, s1, s2, s3 = _sample(origin, stride, column, row, fx, fy, one, TAPS, CHANNELS)
                weight = tl.where(views == 2, tl.where(view == 0, 1 - share, share), 1.0)
                v0, v1, v2, v3 = v0 + weight * s0, v1 + weight * s1, v2 + weight * s2, v3 + weight * s3

        v0, v1 = tl.minimum(tl.maximum(v0, 0.0), 255.0), tl.minimum(tl.maximum(v1, 0.0), 255.0)
        v2, v3 = tl.minimum(tl.maximum(v2, 0.0), 255.0), tl.minimum(tl.maximum(v3, 0.0), 255.0)
        _store_picture(
            image, index, top, left, left + x, top + y, height, width, pixels, v0, v1, v2, 1 / 127.5, -1.0,
            CHANNELS, BYTES, WORDS, TILE_HEIGHT, TILE_WIDTH,
        )  # fmt: skip
        _store_picture(
            mask, index, top, left, left + x, top + y, height, width, pixels, v3, v3, v3, 1 / 255, 0.0, 1, BYTES, WORDS,
            TILE_HEIGHT, TILE_WIDTH,
        )  # fmt: skip
        if composite is not None:
            m = v3 * (1 / 255)
            b0 = b0 * (1 - m) + v0 * m
            b1 = b1 * (1 - m) + v1 * m
            b2 = b2 * (1 - m) + v2 * m

    if composite is not None:
        _store_picture(
            composite, frame, top, left, left + x, top + y, height, width, pixels, b0, b1, b2, 1 / 127.5, -1.0,
            CHANNELS, BYTES, WORDS, TILE_HEIGHT, TILE_WIDTH,
        )  # fmt: skip


@triton.jit
def _matrix_row(pointer):
    return (
        tl.load(pointer).to(tl.float64),
        tl.load(pointer + 1).to(tl.float64),
        tl.load(pointer + 2).to(tl.float64),
    )


# Launchers: contiguous tensors, checked by tpc_fast.ops.warp


def _levels(height: int, width: int, most: int) -> list[tuple[int, int]]:
    """Sizes of the pyramid, from the reference down to one pixel, at most so many."""
    sizes = [(height, width)]
    while max(sizes[-1]) > 1 and len(sizes) < most:
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes


def levels_of(least_scale: float) -> int:
    """How many levels serve warps of this scale sqrt(|det|) and of larger ones: shrinking by 2^l needs level l."""
    levels = 1
    while levels < ALL_LEVELS and least_scale * (1 << (levels - 1)) < 1:
        levels += 1
    return levels


def _words(persons: int, sizes) -> int:
    return sum(persons * (h + 2 * BORDER) * (w + 2 * BORDER) for h, w in sizes)


def _pack_reference(image, mask, levels: int):
    persons, height, width = mask.shape
    packed = torch.zeros(_words(persons, _levels(height, width, levels)), dtype=torch.int32, device=image.device)
    pixels = height * width
    with on(image):
        pack_kernel[(triton.cdiv(pixels, 1024), persons)](
            image, mask, packed, pixels, height, width, image[0].numel() if len(image) > 1 else 0,
            CHANNELS=image.shape[-1], BORDER=BORDER, BLOCK=1024, **OPTIONS,
        )  # fmt: skip
    return packed


def _build_pyramid(packed, persons: int, height: int, width: int, levels: int) -> None:
    sizes = _levels(height, width, levels)
    starts = [_words(persons, sizes[:level]) for level in range(len(sizes))]
    with on(packed):
        for level, (h, w) in enumerate(sizes[1:], 1):
            fine_h, fine_w = (side + 2 * BORDER for side in sizes[level - 1])
            halve_kernel[(triton.cdiv(h * w, 1024), persons)](
                packed[starts[level - 1] :], packed[starts[level] :], h * w, h, w, fine_w, fine_h * fine_w,
                BORDER=BORDER, BLOCK=1024, **OPTIONS,
            )  # fmt: skip


def _outputs(new, matrix, size, channels, dtype, composite):
    (frames, persons), (height, width) = matrix.shape[:2], size
    pixels = (height, width, channels) if dtype == torch.uint8 else (channels, height, width)
    image, mask = new((frames, persons, *pixels)), new((frames, persons, height, width))
    return image, mask, new((frames, *pixels) if composite else (0,))


def _warp_composite(
    packed, matrix, background, source, levels, size, channels, taps, antialias, colour, dtype, composite
):
    (frames, persons), (height, width) = matrix.shape[:2], size
    tiles_y, tiles_x = triton.cdiv(height, TILE_HEIGHT), triton.cdiv(width, TILE_WIDTH)
    if frames * tiles_x * tiles_y >= 1 << 31:
        raise ValueError(f"matrix must be of fewer frames: {frames} of {height} x {width} are too many for one launch")
    outputs = _outputs(lambda shape: empty(shape, dtype, packed.device), matrix, size, channels, dtype, composite)
    if frames == 0:
        return outputs
    words = dtype == torch.uint8 and width % 4 == 0
    image, mask, over = (a.view(-1).view(torch.int32) if words else a for a in outputs)
    step = 0 if background is None or len(background) == 1 else background[0].numel()
    with on(packed):
        warp_composite_kernel[(frames * tiles_x * tiles_y,)](
            packed, matrix, image, mask, over if composite else None, background, *colour, step, persons,
            len(_levels(*source, levels)), *source, height, width, height * width, tiles_x, tiles_y, 0x3F800000,
            TAPS=taps, ANTIALIAS=antialias, CHANNELS=channels, BYTES=dtype == torch.uint8, WORDS=words, BORDER=BORDER,
            TILE_HEIGHT=TILE_HEIGHT, TILE_WIDTH=TILE_WIDTH, MAX_STEP=MAX_STEP, MAX_COORDINATE=MAX_COORDINATE,
            num_warps=4, **OPTIONS,
        )  # fmt: skip
    return outputs


def _warp_composite_fake(
    packed, matrix, background, source, levels, size, channels, taps, antialias, colour, dtype, composite
):
    return _outputs(lambda shape: packed.new_empty(shape, dtype=dtype), matrix, size, channels, dtype, composite)


pack_reference = operation(
    "pack_reference(Tensor image, Tensor mask, int levels) -> Tensor",
    _pack_reference,
    lambda image, mask, levels: mask.new_empty(
        _words(mask.shape[0], _levels(*mask.shape[1:], levels)), dtype=torch.int32
    ),
)
build_pyramid = operation(
    "build_pyramid(Tensor(a!) packed, int persons, int height, int width, int levels) -> ()",
    _build_pyramid,
    lambda packed, persons, height, width, levels: None,
)
warp_composite = operation(
    "warp_composite(Tensor packed, Tensor matrix, Tensor? background, int[] source, int levels, int[] size, "
    "int channels, int taps, bool antialias, float[] colour, ScalarType dtype, bool composite) "
    "-> (Tensor, Tensor, Tensor)",
    _warp_composite,
    _warp_composite_fake,
)


class Source:
    """A packed reference on a device; see `tpc_fast.ops.warp.WarpSource`, which checks the arguments."""

    def __init__(self, image: torch.Tensor, mask: torch.Tensor, least_scale: float):
        self._size, self._channels, self._levels = tuple(mask.shape), image.shape[-1], levels_of(least_scale)
        self._packed = pack_reference(image.contiguous(), mask.contiguous(), self._levels)
        self._pyramid = False

    def warp(
        self, matrix, size, taps: int, antialias: bool, colour, background, dtype: str, composite: bool
    ) -> tuple[torch.Tensor | None, ...]:
        """matrix [F, P, 2, 3]; colour: three numbers; background: uint8 [F or 1, h, w, C] or None."""
        if antialias and not self._pyramid:
            build_pyramid(self._packed, *self._size, self._levels)
            self._pyramid = True
        image, mask, over = warp_composite(
            self._packed, matrix, background, self._size[1:], self._levels, size, self._channels, taps, antialias,
            colour, getattr(torch, dtype), composite,
        )  # fmt: skip
        return image, mask, over if composite else None
