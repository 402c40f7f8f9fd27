"""Where the C header and the C sources are."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def get_include() -> str:
    """The folder of microgpt_fast.h, as a string: for a C compiler's ``-I``, or ``include_dirs``."""
    return str(_PACKAGE / "include")


def get_sources() -> str:
    """The folder of the C core's sources, as a string; docs/kernels.md tells how to compile them.

    Raises
    ------
    FileNotFoundError
        If the package was installed without them.
    """
    for folder in (_PACKAGE / "csrc", _PACKAGE.parent / "csrc"):  # installed; in the repository
        if (folder / "variant.c").is_file():
            return str(folder)
    raise FileNotFoundError(f"the C sources are not in {_PACKAGE / 'csrc'}: install the package again")
