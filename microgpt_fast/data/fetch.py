"""Known texts from the net, through pooch."""

import os

from ..config import UsageError, closest
from .cache_folder import folder

# name -> (file, URL, SHA-256)
TEXTS = {
    "names": (
        "names.txt",
        "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    ),
    "tinyshakespeare": (
        "tinyshakespeare.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


class FetchError(Exception):
    """A text could not be had; the message says why."""


def fetch(name, path=None):
    """A known text, downloaded if it is not here yet.

    Parameters
    ----------
    name : {"names", "tinyshakespeare"}
    path : path, optional
        Where to put it; None is the cache (see `cache_folder.folder`).

    Returns
    -------
    path : str

    Raises
    ------
    UsageError
        for another name, or without pooch.
    FetchError
        if it cannot be downloaded, is not what it was, or cannot be written.
    """
    if name not in TEXTS:
        raise UsageError(f"unknown text {name!r}{closest(name, TEXTS)} (allowed: {', '.join(TEXTS)})")
    try:
        import pooch
    except ImportError:
        raise UsageError("fetching texts needs pooch: pip install 'microgpt-fast[data]'") from None
    file, url, digest = TEXTS[name]
    where, file = os.path.split(os.path.abspath(path)) if path else (os.path.join(folder(), "texts"), file)
    if path and os.path.exists(path):
        raise UsageError(f"{path}: there is a file already")
    pooch.get_logger().setLevel("ERROR")
    try:
        return pooch.retrieve(url, f"sha256:{digest}", file, where, progressbar=False)
    except ValueError:
        raise FetchError(f"{url}: the content is not what it was (SHA-256 differs)") from None
    except OSError as error:  # those of the connection are, too
        reason = error.strerror or f"no connection ({type(error).__name__})"
        raise FetchError(f"cannot fetch {url} to {os.path.join(where, file)}: {reason}") from None
