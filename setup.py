"""The part of the packaging that pyproject.toml cannot say: the C shim, built by cffi, as one wheel for Python >= 3.11."""

from setuptools import setup

setup(
    cffi_modules=["csrc/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
