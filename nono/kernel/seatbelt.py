"""macOS: sandbox_init(3) with a profile in SBPL, on the calling process, for good. ENOSYS elsewhere."""

from __future__ import annotations

from errno import ENOSYS

from nono.errors import KernelError
from nono.kernel._shim import ffi, lib

_ERROR_BYTES = 1024


def sandbox_init(profile: str) -> None:
    """Enforce `profile` (SBPL text). Raises KernelError with the system's own words when it is refused."""
    error = ffi.new("char[]", _ERROR_BYTES)
    result = lib.nono_sandbox_init(profile.encode(), 0, error, _ERROR_BYTES)
    if result == -ENOSYS:
        raise KernelError("sandbox_init", ENOSYS, "sandbox_init exists on macOS only.")
    if result < 0:
        words = ffi.string(error).decode("utf-8", "replace")
        raise KernelError("sandbox_init", -result, f"macOS refused the sandbox profile: {words}")
