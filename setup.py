"""What pyproject.toml cannot say: the C shim, built by cffi, and one wheel for every Python from 3.11 on."""

import sysconfig

from setuptools import setup

# A free-threaded Python has no limited API yet; there cffi builds for that one version.
one_wheel = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"py_limited_api": "cp311"}

setup(cffi_modules=["csrc/build.py:ffibuilder"], options={"bdist_wheel": one_wheel})
