"""Models in files: safetensors, written completely or not at all."""

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from ..config import DTYPES, GPTConfig, TrainConfig, UsageError, closest, shown, stored_dtype
from ..data.tokenizer import ByteTokenizer, Tokenizer, tokenizer_of
from ..model import GPT
from .stored import State, mapping, parse, state_of

FORMAT = "microgpt_fast"
VERSION = "1"
TRAINING = "training."  # before the names of the arrays of a training's state
DTYPE_NAMES = {"F32": "float32", "F64": "float64"}  # safetensors' name -> ours
STORED = "stored"
MESSAGE = 200  # characters of another library's message that are shown


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
    if model.dtype != model.parameters.dtype.name:
        metadata["dtype"] = model.dtype
    metadata["crc32"] = _checksum(metadata, model.parameters, arrays)
    arrays = {TRAINING + name: array for name, array in arrays.items()}
    content = _ordered(to_bytes({**model.tensors, **arrays}, metadata))
    replace_file(check_writable(path), content)


def _ordered(content):
    """The bytes of a safetensors file with its metadata in the order of their names: equal models, equal files.

    The file is the length of its header in 8 bytes, the header in JSON, and the tensors. The library writes the
    metadata in another order each time.
    """
    import json

    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[end:]])


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    numerics: str | None = None,
    threads: int | None = None,
    dtype: str | None = None,
) -> GPT:
    """Read a model that `save` wrote.

    Parameters
    ----------
    path : path
    backend, numerics, threads
        See `GPT`.
    dtype : {"float64", "float32", "bfloat16"}, optional
        To compute with; None means as the model was saved. Parameters of another dtype are rounded.

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
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(
            f"unknown dtype {shown(dtype)}{closest(dtype, DTYPES)} (allowed: {', '.join(DTYPES)})"
        )
    return load_with_training(path, dtype, backend=backend, numerics=numerics, threads=threads)[0]


def load_with_training(path, dtype=None, **options):
    """Like `load`, but returns (the model, the state of its training or None, the arrays of this state).

    With dtype STORED, the model has the dtype of the file's numbers: float32 if it computed with bfloat16.

    Nothing is read before its size is known to fit the configuration, so that memory stays in proportion to the file.
    """
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    with open(path, "rb"):  # for the system's own error messages
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            about = _about(path, file.metadata() or {})
            shapes, stored = _shapes(path, file, about)
            wanted = stored if dtype == STORED else dtype or about.dtype or stored
            model = GPT(about.config, about.tokenizer, dtype=wanted, **options)
            is_alike = model.parameters.dtype == stored
            flat = model.parameters if is_alike else np.zeros(about.config.num_params, stored)
            for parameter in about.config.parameters():
                flat[parameter.place] = file.get_tensor(parameter.name).ravel()
            arrays = {
                name[len(TRAINING) :]: file.get_tensor(name) for name in shapes if name.startswith(TRAINING)
            }
    except UsageError:
        raise
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:
        if _is_pickle(path):
            raise CheckpointError(
                f"{path}: not a model file but a pickle, as torch.save writes; reading one can run code out of it: "
                "convert it inside PyTorch, see docs/bridges.md"
            ) from None
        raise CheckpointError(f"{path}: not a model file, or a damaged one ({_brief(error)})") from None
    if _checksum(about.metadata, flat, arrays) != about.metadata["crc32"]:
        raise CheckpointError(f"{path}: damaged: the content does not match its checksum")
    if not is_alike:
        with np.errstate(
            over="ignore"
        ):  # what float32 cannot hold becomes infinite, and is reported where it is used
            model.parameters[:] = flat
    model.train_config = about.train_config
    return model, about.state, arrays


def _is_pickle(path):
    """Whether a file that is no safetensors file begins as those of torch.save: a zip archive, or a pickle itself."""
    with open(path, "rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04"))


class _About(NamedTuple):
    """What the metadata of a file say."""

    metadata: dict[str, str]
    config: GPTConfig
    tokenizer: Tokenizer | ByteTokenizer | None
    train_config: TrainConfig | None
    state: State | None
    dtype: str | None  # that of products, where it is not that of the numbers in the file


def _about(path, metadata):
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but not a model of {FORMAT}")
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: format version {shown(metadata.get('version'))}; this program reads {VERSION!r}"
        )
    try:
        config = GPTConfig(**mapping(parse(metadata["config"]), "config"))
        tokenizer, train_config = parse(metadata["tokenizer"]), parse(metadata["train_config"])
        tokenizer = None if tokenizer is None else tokenizer_of(tokenizer)
        if tokenizer is not None and tokenizer.vocab_size != config.vocab_size:
            raise ValueError(f"a tokenizer of {tokenizer.vocab_size} ids, a model of {config.vocab_size}")
        if train_config is not None:
            train_config = TrainConfig(**mapping(train_config, "train_config"))
        state = parse(metadata["training"]) if "training" in metadata else None
        if state is not None:
            state = state_of(state)
            if train_config is None:
                raise ValueError("a training without train_config")
        metadata["crc32"]  # must be there
        dtype = metadata.get("dtype")
        if dtype not in (None, "bfloat16"):
            raise ValueError(f"dtype {shown(dtype)}")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged metadata ({type(error).__name__}: {_brief(error)})") from None
    return _About(metadata, config, tokenizer, train_config, state, dtype)


def _shapes(path, file, about):
    """(the shape of each tensor in the file by its name, the model's dtype), if they are what they must be."""
    slices = {name: file.get_slice(name) for name in file.keys()}
    shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
    wanted = about.config.shapes() if about.config.n_layer <= len(shapes) else {}
    dtype = DTYPE_NAMES.get(next(iter(slices.values())).get_dtype()) if slices else None
    dtypes = dict.fromkeys(wanted, dtype)
    if about.state is not None:
        count, moments = (about.config.num_params,), [TRAINING + name for name in ("m", "v")]
        if about.train_config.keep_best and TRAINING + "best" in shapes:
            moments.append(TRAINING + "best")
        wanted |= {**dict.fromkeys(moments, count), TRAINING + "losses": (about.state.step,)}
        dtypes |= {**dict.fromkeys(moments, dtype), TRAINING + "losses": "float64"}
    found = {name: DTYPE_NAMES.get(one.get_dtype()) for name, one in slices.items()}
    mixed = about.dtype is not None and dtype != stored_dtype(about.dtype)
    if shapes != wanted or dtype is None or found != dtypes or mixed:
        raise CheckpointError(f"{path}: damaged: the tensors do not fit the configuration")
    return shapes, dtype


def _brief(error):
    """An error's message, in one line that is not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= MESSAGE else f"{text[:MESSAGE]}..."


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
    _sync_folder(os.path.dirname(path) or os.curdir)


def _checksum(metadata, parameters, arrays):
    from zlib import crc32

    text = metadata["config"] + metadata["tokenizer"] + metadata["train_config"]
    text += metadata.get("training", "") + metadata.get("dtype", "")
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
