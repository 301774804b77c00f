"""The operations: checks and dispatch. One stem per operation, the same in `csrc/` and `kernels/`."""
