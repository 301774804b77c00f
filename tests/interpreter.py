"""Triton's interpreter without what it does again and again: half of its time.

Each change gives what the interpreter would compute anew. The builtins of a module and the dtypes of NumPy do not
change; a device function finds patched what others of its module patched in the same launch; and what a tensor's type
says of its shape is the same for every tensor of that type.
"""

import functools
import inspect
import types

from triton.language import core
from triton.runtime import interpreter


def hasten():
    """Changes the interpreter, once, before any kernel runs."""
    interpreter.inspect = types.SimpleNamespace(**vars(inspect) | {"getmembers": _builtins(inspect.getmembers)})
    interpreter._get_np_dtype = _dtypes(interpreter._get_np_dtype)
    interpreter._patch_lang = _patched_once(interpreter._patch_lang)
    core.block_type.__init__ = _known_types(core.block_type.__init__)
    core.tensor.__init__ = _known_shapes(core.tensor.__init__)


def _builtins(getmembers):
    """It lists all of `triton.language` for every launch, in search of builtins to replace."""
    names = {}

    def found(module):
        if module not in names:
            names[module] = [name for name, member in getmembers(module) if core.is_builtin(member)]
        return [(name, getattr(module, name)) for name in names[module]]

    return found


def _dtypes(plain):
    """Every operation makes a table of dtypes."""
    cached = functools.cache(plain)

    def dtype(kind):
        scalar = kind.element_ty if isinstance(kind, core.block_type) else kind
        return plain(scalar) if isinstance(scalar, core.pointer_type) else cached(scalar)

    return dtype


def _patched_once(plain):
    """Every call of a device function patches the language as its module sees it, inside a kernel that has done so."""
    patched = set()  # modules whose functions the running kernel called

    def patch(function):
        first = not patched
        if id(function.__globals__) in patched:
            return interpreter._LangPatchScope()
        scope = plain(function)
        patched.add(id(function.__globals__))
        if first:
            restore = scope.restore

            def end():
                patched.clear()
                restore()

            scope.restore = end
        return scope

    return patch


def _known_types(plain):
    """Every result has a type of its own, whose shape is checked and named."""
    known = {}

    def init(self, element_ty, shape):
        sizes = [size.value if type(size) is core.constexpr else size for size in shape]
        key = (type(element_ty), element_ty.name, *sizes)
        if key not in known:
            plain(self, element_ty, shape)
            self.of_tensors = {}
            known[key] = vars(self).copy()
        vars(self).update(known[key], element_ty=element_ty)

    return init


def _known_shapes(plain):
    """Every tensor makes a tuple of constants of its shape."""

    def init(self, handle, type):
        fields = vars(type).get("of_tensors")
        if not fields:
            plain(self, handle, type)
            if fields is not None:
                fields.update(shape=self.shape, numel=self.numel)
            return
        vars(self).update(fields, handle=handle, type=type, dtype=type.scalar)

    return init
