"""What batched results have in common: they are indexed, compared, moved and stacked as one."""

import dataclasses
import sys

import numpy as np

from tpc_fast import _dispatch

collates = False  # whether torch knows of results
_kinds: list[type] = []


class Batched:
    """Of a dataclass of arrays [..., *tail] over one batch, and of such results over the same batch.

    `_bare` names a field without a tail.
    """

    _bare = "ok"

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        _kinds.append(cls)
        if collates:
            _tell_torch(cls)

    def _fields(self) -> list:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def __getitem__(self, index):
        """The results at an index of the batch dimensions: whatever arrays take, but None."""
        batch = np.ndim(getattr(self, self._bare))
        keys = index if isinstance(index, tuple) else (index,)
        if any(key is None for key in keys):
            raise TypeError("an index must not add a dimension, but has None")
        if not batch:
            raise IndexError(f"one {type(self).__name__} has no batch to index")
        whole = (slice(None),)
        return type(self)(
            *(a[keys] if isinstance(a, Batched) else a[(*keys, *whole * (a.ndim - batch))] for a in self._fields())
        )

    def __len__(self) -> int:
        """How long the first batch dimension is."""
        bare = getattr(self, self._bare)
        if not np.ndim(bare):
            raise TypeError(f"one {type(self).__name__} has no length")
        return len(bare)

    def __bool__(self) -> bool:
        return True  # as before there was a length: an empty batch is a result

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __eq__(self, other):
        """Whether all numbers are the same, those that are NaN too, and the arrays of one kind."""
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(a, b) for a, b in zip(self._fields(), other._fields(), strict=True))

    __hash__ = None

    def __repr__(self) -> str:
        """Numbers where there are few, dtype and shape where there are many."""
        shown = (f"{f.name}={_shown(getattr(self, f.name))}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(shown)})"

    def to(self, *args, **kwargs):
        """On another device or in another floating dtype, as `torch.Tensor.to`; tensors only."""
        fields = self._fields()
        if not all(_dispatch.is_torch(a) or isinstance(a, Batched) for a in fields):
            raise TypeError(f"to() moves torch tensors, but this {type(self).__name__} has NumPy arrays")
        moved = [a.to(*args, **kwargs) for a in fields]
        for i, (a, b) in enumerate(zip(fields, moved, strict=True)):
            if not isinstance(a, Batched) and a.is_floating_point() != b.is_floating_point():
                if a.is_floating_point():
                    raise TypeError(f"to() takes a floating dtype, but {b.dtype} would round a {type(self).__name__}")
                moved[i] = b.to(a.dtype)
        return type(self)(*moved)

    @classmethod
    def stack(cls, results):
        """One batch of results of equal shapes, in front: for `DataLoader(collate_fn=...)`.

        torch's `default_collate` makes the same batch of tensors; see `collate_by_default`.
        """
        columns = list(zip(*(one._fields() for one in results), strict=True))
        if not columns:
            raise ValueError("results must be one result or more, but there are none")
        return cls(*(_stacked(column) for column in columns))


def collate_by_default() -> None:
    """Tells torch of batched results, if it is loaded.

    `default_collate` then does as `Batched.stack`, what maps over trees of tensors (`torch.func.vmap` of a function
    that returns a fit) sees their fields, and `torch.load` takes them for the data that they are.

    Fits and searches call it, until torch is there. For results from before that, give a DataLoader
    `collate_fn=Fit.stack`.
    """
    global collates
    torch = sys.modules.get("torch")
    if getattr(torch, "Tensor", None) is None or torch.compiler.is_dynamo_compiling():  # which would trace all this
        return
    from torch.utils.data._utils.collate import default_collate_fn_map

    default_collate_fn_map[Batched] = _collate
    for kind in _kinds:
        _tell_torch(kind)
    collates = True


def _tell_torch(kind) -> None:
    from torch.serialization import add_safe_globals
    from torch.utils._pytree import register_pytree_node

    def made(values, _):
        one = object.__new__(kind)  # of whatever stands in for arrays: no checks
        for field, value in zip(dataclasses.fields(kind), values, strict=True):
            object.__setattr__(one, field.name, value)
        return one

    name = f"tpc_fast.{kind.__name__}"
    add_safe_globals([kind])
    register_pytree_node(kind, lambda one: (one._fields(), None), made, serialized_type_name=name)


def _collate(batch, *, collate_fn_map=None):
    from torch.utils.data._utils.collate import collate

    columns = zip(*(one._fields() for one in batch), strict=True)
    return type(batch[0])(*(collate(list(column), collate_fn_map=collate_fn_map) for column in columns))


def _stacked(column):
    if isinstance(column[0], Batched):
        return type(column[0]).stack(column)
    if _dispatch.is_torch(column[0]):
        import torch

        return torch.stack(column)
    return np.stack(column)


def _shown(array) -> str:
    if isinstance(array, Batched):
        return repr(array)
    shape, kind = tuple(np.shape(array)), str(array.dtype).removeprefix("torch.")
    where = f" on {array.device}" if _dispatch.is_torch(array) else ""
    # What a glance takes in: the rotation of one 3-D fit. Tensors of "meta" and of torch.func have no numbers to show.
    if np.prod(shape) > 9 or where == " on meta" or _dispatch.without_values(array):
        return f"{kind} {list(shape)}{where}"
    values = array.detach().cpu().double().numpy() if where and kind != "bool" else np.asarray(array)
    return np.array2string(values, precision=4, separator=", ").replace("\n", "")


def _same(a, b) -> bool:
    if isinstance(a, Batched) or isinstance(b, Batched):
        return a == b
    if _dispatch.is_torch(a) != _dispatch.is_torch(b) or np.shape(a) != np.shape(b):
        return False
    if _dispatch.is_torch(a):
        return a.device == b.device and bool(((a == b) | ((a != a) & (b != b))).all())
    return bool(np.array_equal(a, b, equal_nan=True))
