"""The kernel room: the only importer of the C shim, and the only room that knows system calls.

Each module wraps one facility of the kernel, thinly: it builds the structures, calls the shim, and turns -errno into a
KernelError whose sentence says what is missing and what to do. It decides nothing about policy. Everything here is
imported before the agent starts, so it costs about 2 ms in all, most of it cffi's own backend.
"""
