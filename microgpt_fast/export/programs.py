"""A model as one C file, or as one Python file: weights, tokenizer and sampling, without dependencies."""

import textwrap
from base64 import b64encode
from pathlib import Path

import numpy as np

from . import served
from .expected import first_logits, float32_of, greedy, is_stream

TEMPLATES = Path(__file__).parent / "templates"
C_ACTIVATIONS = {
    "relu": "x > 0 ? x : 0",
    "relu2": "x > 0 ? x * x : 0",
    "gelu": "x / (1 + expf(-1.5957691216f * (x + 0.044715f * x * x * x)))",
    "silu": "x / (1 + expf(-x))",
}
PYTHON_ACTIVATIONS = {
    "relu": "max(0.0, x)",
    "relu2": "max(0.0, x) ** 2",
    "gelu": "x * sigmoid(2 * (2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))",
    "silu": "x * sigmoid(x)",
}


def c_program(model):
    """The text of a C file that writes what the model writes, and tests itself."""
    served.check(model, "a C program")
    single, tokenizer = float32_of(model), model.tokenizer
    symbols = range(256) if tokenizer.kind == "byte" else map(ord, tokenizer.chars)
    texts = sorted(symbols)
    chars = getattr(tokenizer, "chars", "\n")
    return filled(
        "model.c.in",
        **sizes(model),
        SYMBOLS=numbers(texts),
        BOS=tokenizer.bos,
        FIRST=0 if tokenizer.bos_place == "last" else 1,
        IS_BYTES=int(tokenizer.kind == "byte"),
        IS_STREAM=int(is_stream(model)),
        BEGINS_WITH_NEWLINE=int(is_stream(model) and "\n" in chars),
        TEMPERATURE=repr(float(temperature(model))),
        COUNT=500 if is_stream(model) else model.config.block_size,
        ACTIVATION=C_ACTIVATIONS[model.config.activation],
        WEIGHTS=numbers(map(c_float, single.parameters)),
        LOGITS=numbers(map(c_float, first_logits(single))),
        GREEDY=numbers(greedy(single)),
        GREEDY_LENGTH=len(greedy(single)),
    )


def python_program(model):
    """The text of a Python file that writes what the model writes."""
    served.check(model, "a Python program")
    tokenizer = model.tokenizer
    kind, dtype = ("d", "<f8") if model.parameters.dtype == np.float64 else ("f", "<f4")
    symbols = "None" if tokenizer.kind == "byte" else ascii(tokenizer.chars)
    weights = b64encode(model.parameters.astype(dtype).tobytes()).decode()
    return filled(
        "model.py.in",
        **sizes(model),
        CHARS=symbols,
        BOS=tokenizer.bos,
        FIRST=0 if tokenizer.bos_place == "last" else 1,
        IS_STREAM=is_stream(model),
        TEMPERATURE=repr(float(temperature(model))),
        COUNT=500 if is_stream(model) else model.config.block_size,
        ACTIVATION=PYTHON_ACTIVATIONS[model.config.activation],
        KIND=repr(kind),
        WEIGHTS="\n".join(textwrap.wrap(weights, 118)),
    )


def sizes(model):
    """The sizes of a model by the original's names, in capitals."""
    return {name.upper(): getattr(model.config, name) for name in served.SIZES}


def temperature(model):
    """That of the model's training, or the default."""
    return model.train_config.temperature if model.train_config else 0.5


def filled(name, **values):
    """A template with @NAME@ replaced by values."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    parts = text.split("@")
    parts[1::2] = [str(values[part]) for part in parts[1::2]]
    return "".join(parts)


def c_float(number):
    """A float32 as C reads it back to the same bits."""
    text = f"{np.float32(number):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.f"


def numbers(values):
    """Numbers with commas, in lines that are not too long."""
    return "\n".join(textwrap.wrap(", ".join(map(str, values)), 118))
