"""Triton kernels: the GPU twins of the operations in `csrc/`, installed as `tpc_fast.kernels`.

Nothing is here yet: CUDA tensors are refused with a clear error until the kernels land.
"""
