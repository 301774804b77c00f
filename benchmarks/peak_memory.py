"""The memory that tensors take, on any device and without its allocator."""

import weakref

import torch


class PeakMemory(torch.utils._python_dispatch.TorchDispatchMode):
    """The most bytes that tensors made inside it held at once.

    Attributes:
        peak: bytes.
    """

    def __init__(self):
        super().__init__()
        self.peak, self._live, self._now = 0, set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage):
        if storage._cdata not in self._live:
            self._live.add(storage._cdata)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key, size):
        self._live.discard(key)
        self._now -= size
