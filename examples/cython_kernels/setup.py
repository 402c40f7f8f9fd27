"""Build with: python setup.py build_ext --inplace; Cython finds the .pxd file in the installed package."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(name="consumer", ext_modules=cythonize([Extension("consumer", ["consumer.pyx"])]))
