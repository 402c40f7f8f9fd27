"""Build with: python setup.py build_ext --inplace."""

from setuptools import Extension, setup

import microgpt_fast

extension = Extension("consumer", ["consumer.c"], include_dirs=[microgpt_fast.get_include()])
setup(name="consumer", ext_modules=[extension])
