"""Compiles what the launchers launch, for GPUs that need not be there; run in a process without the interpreter.

Every launch inside `recorded()` is compiled, with the options and specialisations that the launch would have, instead of
run: so what is compiled is what would run.
"""

import contextlib
import dataclasses
import os
import re
import subprocess
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
    cubin: bytes


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


def _compile(function: JITFunction, arguments: dict, options: dict, mode: str, capability: int) -> Cubin:
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(_source(function, arguments), target=target, options=options)
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said))
    spilled = max(int(usage["STACK"]), int(usage["LOCAL"]))
    return Cubin(
        function.fn.__name__, mode, capability, int(usage["REG"]), spilled, compiled.metadata.shared,
        compiled.asm["cubin"],
    )  # fmt: skip


@contextlib.contextmanager
def recorded(capabilities: tuple[int, ...]):
    """Yields a function (mode, call) that makes a call and returns the cubins of the kernels that it launches."""
    found, modes = {}, []

    def run(self, *args, grid, warmup, **options):
        names = [parameter.name for parameter in self.params]
        arguments = dict(zip(names, args, strict=False)) | {k: v for k, v in options.items() if k in names}
        for parameter in self.params:
            if parameter.has_default:
                arguments.setdefault(parameter.name, parameter.default)
        options = {k: v for k, v in options.items() if k not in names}
        for capability in capabilities:
            source = _source(self, arguments)
            key = (self.fn.__name__, capability, source.hash(), str(sorted(options.items())))
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
