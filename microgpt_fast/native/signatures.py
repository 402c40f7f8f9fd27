"""The kernels' C signatures, read from the header that declares them.

``include/microgpt_fast_kernels.h`` is the one place where a kernel's arguments are written down; the Cython wrappers
are made from it when the package is built, and the tests hold every backend against it.
"""

import re
from pathlib import Path

HEADER = Path(__file__).parents[1] / "include" / "microgpt_fast_kernels.h"


class Argument:
    """One argument of a kernel: its C type (``real`` stands for float and double), its name, whether it points."""

    __slots__ = ("ctype", "name")

    def __init__(self, declaration):
        text, self.name = re.fullmatch(r"(.*?)(\w+)", declaration.strip()).groups()
        self.ctype = " ".join(text.replace("*", " * ").split())

    @property
    def is_pointer(self):
        return self.ctype.endswith("*")

    @property
    def is_const(self):
        return self.ctype.startswith("const ")

    @property
    def base(self):
        """The type without ``const`` and ``*``."""
        return self.ctype.removeprefix("const ").removesuffix(" *")


class Signature:
    """A kernel's name, result type and arguments.

    ``is_model`` is true for the composed ``gpt_*`` functions, ``is_exact`` for those that exact numerics have too.
    """

    __slots__ = ("arguments", "is_exact", "is_model", "name", "result")

    def __init__(self, macro, result, name, arguments):
        self.name = name
        self.result = result
        self.is_model = macro != "KERNEL"
        self.is_exact = macro == "MGF_MODEL"
        self.arguments = [Argument(text) for text in arguments.split(",")]


def read_signatures(header=HEADER):
    """Every kernel of the header, in its order.

    Parameters
    ----------
    header : path-like
        The list of ``KERNEL(result, name, (arguments))`` lines.

    Returns
    -------
    list of Signature
    """
    text = re.sub(r"/\*.*?\*/", "", Path(header).read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"^(KERNEL|MGF_MODEL|MGF_FAST)\((\w+), (\w+), \((.*)\)\)$", text, flags=re.MULTILINE)
    return [Signature(*entry) for entry in found]
