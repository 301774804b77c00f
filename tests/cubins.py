"""Compiles what the launchers launch, for GPUs that need not be there; run in a process without the interpreter.

Every launch inside `recorded()` is compiled, with the options and specialisations that the launch would have, instead
of run: so what is compiled is what would run. `python cubins.py 90` compiles all kernels but attention for sm_90, in
all dtypes and modes (every interpolation with every dtype; the other modes of the warp in turn), and prints what the
assembler says. `python cubins.py 90 attention` compiles attention, and counts instructions, too.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TYPES = {
    torch.bool: "i1", torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64", torch.float16: "fp16",
    torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cubin:
    """What the assembler says of one kernel for one GPU."""

    kernel: str
    mode: str
    capability: int
    registers: int
    spilled: int  # bytes stored to local memory
    shared: int  # bytes
    binary: bytes = dataclasses.field(repr=False)


def opcodes(cubin: Cubin) -> collections.Counter:
    """How often every instruction stands in it, with its modifiers: LDG.E.128."""
    return collections.Counter(
        re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][\w.]*)", _dump(cubin.binary, "-sass"), re.MULTILINE)
    )


def _dump(binary: bytes, option: str) -> str:
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout


def _source(function: JITFunction, arguments: dict) -> ASTSource:
    signature, constexprs, attributes = {}, {}, {}
    for parameter in function.params:
        name, at, value = parameter.name, (parameter.num,), arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[name], constexprs[at] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + TYPES[value.dtype]
            if value.data_ptr() % 16 == 0:
                attributes[at] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[name], constexprs[at] = "constexpr", 1
        else:
            signature[name] = "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[at] = [["tt.divisibility", 16]]
    return ASTSource(function, signature, constexprs, attributes)


def usage(compiled) -> tuple[int, int, int]:
    """Registers, bytes spilled and bytes of shared memory of a compiled kernel, as the assembler says."""
    found = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", _dump(compiled.asm["cubin"], "-res-usage")))
    return int(found["REG"]), max(int(found["STACK"]), int(found["LOCAL"])), compiled.metadata.shared


def _compile(function: JITFunction, arguments: dict, options: dict, mode: str, capability: int) -> Cubin:
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(_source(function, arguments), target=target, options=options)
    return Cubin(function.fn.__name__, mode, capability, *usage(compiled), compiled.asm["cubin"])


@contextlib.contextmanager
def recorded(capability: int):
    """Yields a function (mode, call) that makes a call and returns the cubins of the kernels that it launches."""
    found, modes = {}, []

    def run(self, *args, grid, warmup, **options):
        names = [parameter.name for parameter in self.params]
        arguments = dict(zip(names, args, strict=False)) | {k: v for k, v in options.items() if k in names}
        for parameter in self.params:
            if parameter.has_default:
                arguments.setdefault(parameter.name, parameter.default)
        options = {k: v for k, v in options.items() if k not in names}
        source = _source(self, arguments)
        key = (self.fn.__name__, source.hash(), str(sorted(options.items())))
        if key not in found:
            found[key] = _compile(self, arguments, options, modes[-1], capability)

    def compile_call(mode, call):
        modes.append(mode)
        known = set(found)
        call()
        return [found[key] for key in found if key not in known]

    original, JITFunction.run = JITFunction.run, run
    try:
        yield compile_call
    finally:
        JITFunction.run = original


def compile_all(capability: int):
    """Yields the cubins of all kernels in all dtypes and modes."""
    from tpc_fast.kernels import procrustes, warp

    with recorded(capability) as compiled:
        for dims, dtype, points, weighted in [
            (2, torch.float32, 17, False),
            (2, torch.float32, 17, True),
            (2, torch.float64, 17, True),
            (2, torch.float32, 50, True),
            (2, torch.float64, 50, False),
            (3, torch.float32, 17, True),
            (3, torch.float64, 17, False),
        ]:
            x, w = torch.zeros(64, points, dims, dtype=dtype), torch.zeros(64, points, dtype=dtype)
            mode = f"{dims}-D, {points} points, {dtype}, {'weights' if weighted else 'no weights'}"
            yield from compiled(mode, lambda x=x, w=w if weighted else None: procrustes.fit_similarity(x, x, w))
        plain = (0.3, 1.284)
        for dtype, points, searched in [
            (torch.float32, 17, True),
            (torch.float64, 20, True),
            (torch.float32, 17, False),
        ]:
            x, w = torch.zeros(64, points, 2, dtype=dtype), torch.zeros(64, points, dtype=dtype)
            before, inertia = torch.zeros(64, 2, dtype=dtype), torch.zeros(1, dtype=torch.float64)
            sigma = torch.zeros(17, dtype=torch.float64)
            every = (w, None, w, w, w, before, inertia) if points == 20 else (None, sigma, w, w, None, before, inertia)
            mode = f"{points} points, {dtype}, {'all subsets' if searched else 'one subset'}"
            arguments = (x, x, *every, 64, searched, 0, points, points, 4, *plain)
            yield from compiled(mode, lambda arguments=arguments: procrustes.search_subset(*arguments))

        backgrounds = itertools.cycle([None, "colour", "image"])
        kinds = [
            (torch.uint8, 512),
            (torch.uint8, 511),
            *((d, 512) for d in (torch.float32, torch.float16, torch.bfloat16)),
        ]
        for number, (taps, (dtype, width)) in enumerate(itertools.product((4, 2, 1), kinds)):
            channels, antialias, background = (
                (3, 3, 1)[number % 3 if number > 4 else 0],
                number % 2 == 0,
                next(backgrounds),
            )
            matrix = torch.zeros(4, 2, 2, 3, dtype=torch.float32 if number % 2 else torch.float64)
            ground = torch.zeros(4, 512, width, channels, dtype=torch.uint8) if background == "image" else None
            packed = torch.zeros(1 << 20, dtype=torch.int32)
            mode = f"{taps} taps, {dtype}, width {width}, {channels} channels, background {background}"
            mode += ", antialias" if antialias else ""
            colour = (0.0, 0.0, 0.0)
            sizes = ((64, 64), warp.ALL_LEVELS, (512, width), channels)
            arguments = (packed, matrix, ground, *sizes, taps, antialias, colour, dtype, background is not None)
            yield from compiled(mode, lambda arguments=arguments: warp.warp_composite(*arguments))
        for channels in (1, 3):
            image = torch.zeros(2, 64, 64, channels, dtype=torch.uint8)
            yield from compiled(
                f"{channels} channels", lambda image=image: warp.pack_reference(image, image[..., 0], 9)
            )
        yield from compiled("pyramid", lambda: warp.build_pyramid(packed, 2, 64, 64, 9))


# Every row of the table of tilings. Stable Diffusion 1.5 has heads of 40, 80 and 160, 2.1 and XL of 64. bfloat16 is
# compiled as float16 is: once is enough.
HEADS = [
    *itertools.product((torch.float16, torch.float32), (40, 64, 80, 96, 128, 160, 192, 256)), (torch.bfloat16, 40)
]  # fmt: skip


def compile_attention(capability: int):
    """Yields dtype, head dimension and cubin of reference attention; its tokens are a multiple of every tile."""
    from tpc_fast.kernels.reference_attention import reference_attention

    with recorded(capability) as compiled:
        for dtype, dim in HEADS:
            x = torch.empty(2, 1024, 8, dim, dtype=dtype)
            tiles, sources = torch.zeros(4, 5, dtype=torch.int64), torch.zeros(2, 2, 2, dtype=torch.int32)
            order, lists = torch.zeros(2, 1024, dtype=torch.int32), torch.zeros(3, 1024, dtype=torch.int32)
            tables = (tiles, order, sources, lists, lists[:, 0].contiguous())
            for cubin in compiled(f"{dtype} {dim}", lambda x=x, tables=tables: reference_attention(*[x] * 5, *tables)):
                yield dtype, dim, cubin


if __name__ == "__main__":
    if "attention" in sys.argv:
        for dtype, dim, cubin in compile_attention(int(sys.argv[1])):
            numbers = (str(dtype), dim, cubin.registers, cubin.spilled, cubin.shared, opcodes(cubin))
            print(json.dumps(numbers), flush=True)
        sys.exit()
    for cubin in compile_all(int(sys.argv[1])):
        line = f"{cubin.kernel} sm_{cubin.capability} registers {cubin.registers} spilled {cubin.spilled} "
        print(f"{line}shared {cubin.shared} | {cubin.mode}", flush=True)
