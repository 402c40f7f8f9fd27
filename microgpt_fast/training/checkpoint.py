"""Models in files: safetensors, written completely or not at all."""

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from ..config import DTYPES, GPTConfig, TrainConfig, UsageError
from ..data.tokenizer import tokenizer_of
from ..model import GPT

FORMAT = "microgpt_fast"
VERSION = "1"
TRAINING = "training."  # before the names of the arrays of a training's state


class CheckpointError(UsageError):
    """A file that does not hold a model of this program."""


def save(
    model: GPT,
    path: str | os.PathLike[str],
    training: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None,
) -> None:
    """Write a model to a file. Whatever happens, the file then holds the whole model or what it held before.

    The file is a safetensors file: the parameters under their names, and in its metadata the configuration,
    the characters, how the model was trained, and a checksum.

    Parameters
    ----------
    model : GPT
    path : path
        A regular file, replaced if it exists.
    training : (dict, dict of str to array), optional
        The state of a training, to be stored with it: see `resume`.

    Raises
    ------
    OSError
        if it cannot be written.
    """
    import json

    from safetensors.numpy import save as to_bytes

    tokenizer = model.tokenizer
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(asdict(model.config)),
        "tokenizer": json.dumps(tokenizer and tokenizer.constants()),
        "train_config": json.dumps(model.train_config and asdict(model.train_config)),
    }
    state, arrays = training or (None, {})
    if state is not None:
        metadata["training"] = json.dumps(state)
    metadata["crc32"] = _checksum(metadata, model.parameters, arrays)
    arrays = {TRAINING + name: array for name, array in arrays.items()}
    content = to_bytes({**model.tensors, **arrays}, metadata)
    replace_file(check_writable(path), content)


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    numerics: str | None = None,
    threads: int | None = None,
) -> GPT:
    """Read a model that `save` wrote.

    Parameters
    ----------
    path : path
    backend, numerics, threads
        See `GPT`.

    Returns
    -------
    model : GPT

    Raises
    ------
    CheckpointError
        (a ValueError) for a file that is truncated, corrupted, of a later version, or not such a file at all.
    OSError
        if it cannot be read.
    """
    return load_with_training(path, backend=backend, numerics=numerics, threads=threads)[0]


def load_with_training(path, **options):
    """Like `load`, but returns (the model, the state of its training or None, the arrays of this state)."""
    import json

    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    with open(path, "rb"):  # for the system's own error messages
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys() if metadata.get("format") == FORMAT else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a model file, or a damaged one ({error})") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but not a model of {FORMAT}")
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: format version {metadata.get('version')!r}; this program reads {VERSION!r}"
        )
    arrays = {name[len(TRAINING) :]: tensors.pop(name) for name in [*tensors] if name.startswith(TRAINING)}
    try:
        config = GPTConfig(**json.loads(metadata["config"]))
        tokenizer, train_config = json.loads(metadata["tokenizer"]), json.loads(metadata["train_config"])
        tokenizer = tokenizer and tokenizer_of(tokenizer)
        train_config = train_config and TrainConfig(**train_config)
        state = json.loads(metadata.get("training", "null"))
        checksum = metadata["crc32"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged metadata ({type(error).__name__}: {error})") from None
    dtypes = {tensor.dtype.name for tensor in tensors.values()}
    if (
        config.n_layer > len(tensors)
        or len(dtypes) != 1
        or not dtypes <= set(DTYPES)
        or {name: tensor.shape for name, tensor in tensors.items()} != config.shapes()
    ):
        raise CheckpointError(f"{path}: damaged: the tensors do not fit the configuration")
    model = GPT(config, tokenizer, dtype=dtypes.pop(), **options)
    for name, tensor in tensors.items():
        model.tensors[name][:] = tensor
    if _checksum(metadata, model.parameters, arrays) != checksum:
        raise CheckpointError(f"{path}: damaged: the content does not match its checksum")
    model.train_config = train_config
    return model, state, arrays


def check_writable(path):
    """The path that `save` will replace, symbolic links followed; checked now, so that little can fail later.

    Raises
    ------
    OSError
        if a file cannot be written there: the folder is missing or not writable, or something other than a
        regular file has this name.
    """
    import safetensors.numpy  # noqa: F401  (if it is missing, fail now rather than after the training)

    path = os.fspath(path)
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = stat.S_IFDIR if path.endswith(os.sep) else stat.S_IFREG
    else:
        if stat.S_ISREG(mode) and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", path)
    try:
        with temporary_beside(target) as (_, descriptor):
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None  # rather than the temporary file's name
    return target


def replace_file(path, content):
    """Write bytes to a file. Whatever happens, the file then holds all of them or what it held before."""
    with temporary_beside(path) as (temporary, descriptor):
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    _sync_folder(os.path.dirname(path))


def _checksum(metadata, parameters, arrays):
    from zlib import crc32

    text = metadata["config"] + metadata["tokenizer"] + metadata["train_config"]
    text += metadata.get("training", "")
    total = crc32(parameters, crc32(text.encode()))
    for name in sorted(arrays):
        total = crc32(np.ascontiguousarray(arrays[name]), total)
    return str(total)


@contextmanager
def temporary_beside(path):
    """A new file in the same folder: (its path, an open descriptor); removed at the end if it is still there."""
    temporary = os.path.join(os.path.dirname(path), f".{FORMAT}-{os.getpid()}-{os.urandom(6).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        yield temporary, descriptor
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _sync_folder(folder):
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
