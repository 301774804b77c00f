"""Triton kernels: the GPU twins of the operations in `csrc/`, and reference attention; installed as `tpc_fast.kernels`.

Imported when the first CUDA tensor comes. The public functions check the arguments; call those.
"""
