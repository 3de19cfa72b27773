"""What pyproject.toml cannot say: the C shim, built by cffi, and one wheel for every Python from 3.11 on."""

from setuptools import setup

setup(
    cffi_modules=["csrc/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
