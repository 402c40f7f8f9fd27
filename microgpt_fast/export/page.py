"""A model as one web page: its weights, the C core as WebAssembly, and the JavaScript of web/."""

import gzip
import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import numpy as np

from .. import __version__
from ..config import UsageError
from ..parameters import parameters_of
from . import expected, served, wasm

PACKAGE = Path(__file__).parents[1]
WEB = PACKAGE / "web"
NAMES = PACKAGE / "datasets" / "us_census_1990_first_names.txt"
ENTRY = "app.js"
WEIGHTS = ("float32", "float16", "int8")
LARGEST = 2**29  # bytes that a page takes for a model while it trains; web/core.js has the same
TOLERANCE = 1e-5  # of the page's self-test, relative to the largest logit
EXAMPLE = 200  # characters of a text that the page begins with
IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let)\b)", re.MULTILINE)


def page(model, weights="float32", name="model", opens="write", text=None):
    """The page of a model.

    Parameters
    ----------
    model : GPT
    weights : {"float32", "float16", "int8"}
        How the weights are stored. int8 has a factor for each row of a matrix.
    name : str
        Shown in the page.
    opens : {"write", "train", "inside", "lessons"}
        The view that is shown first.
    text : str, optional
        What the page begins to look at; None means the likeliest text.

    Returns
    -------
    bytes

    Raises
    ------
    UsageError
        for a model that a page cannot run, or where the core has to be compiled first and cannot be.
    """
    served.check(model, "a page")
    if bytes_in_page(model.config) >= LARGEST:
        raise UsageError(
            f"a page cannot hold a model of {model.config.num_params:,} parameters: it is too large"
        )
    if weights not in WEIGHTS:
        raise UsageError(f"unknown weights {weights!r} (allowed: {', '.join(WEIGHTS)})")
    core = wasm.core(32)
    original = expected.float32_of(model)
    content, restored = packed(original, weights)
    shown = expected.float32_of(model, restored)
    about = {
        "name": name,
        "version": __version__,
        "config": {field: getattr(model.config, field) for field in (*served.SIZES, "activation")},
        "tokenizer": model.tokenizer.constants(),
        "is_stream": expected.is_stream(model),
        "temperature": model.train_config.temperature if model.train_config else 0.5,
        "example": example(shown) if text is None else text,
        "weights": weights,
        "note": note(original, shown, weights),
        "opens": opens,
        "expected": {
            "logits": expected.first_logits(shown).tolist(),
            "greedy": expected.greedy(shown),
            "losses": expected.loss_after_training(shown),
            "tolerance": TOLERANCE,
        },
    }
    return assembled(inert(about), zipped(content), zipped(NAMES.read_bytes()), zipped(core)).encode()


def bytes_in_page(config):
    """Memory of a model that trains: parameters, gradient, moments and packed copies; activations; attention."""
    L, C, H, T, V = config.n_layer, config.n_embd, config.n_head, config.block_size, config.vocab_size
    return 4 * (6 * config.num_params + T * (20 * L * C + 8 * C + 2 * V) + L * H * T * T)


def packed(model, weights):
    """(the bytes of a model's weights, the float32 weights that a page makes of them)."""
    flat = model.parameters
    if weights == "float32":
        return flat.astype("<f4").tobytes(), flat
    if weights == "float16":
        largest = float(np.finfo(np.float16).max)
        if np.abs(flat).max() > largest:
            raise UsageError(f"a weight of {np.abs(flat).max():g} does not fit into float16: choose float32")
        half = flat.astype("<f2")
        return half.tobytes(), half.astype(np.float32)
    pieces, restored = [], np.empty_like(flat)
    for parameter in parameters_of(model.config):
        rows = flat[parameter.place].reshape(parameter.shape)
        factors = (np.abs(rows).max(1) / np.float32(127)).astype(np.float32)
        whole = np.rint(rows / np.where(factors, factors, 1)[:, None]).astype(np.int8)
        restored[parameter.place] = (factors[:, None] * whole.astype(np.float32)).ravel()
        for factor, row in zip(factors, whole):
            pieces += [factor.astype("<f4").tobytes(), row.tobytes()]
    return b"".join(pieces), restored


def note(original, shown, weights):
    """What the smaller weights cost, in one clause; None where they cost nothing."""
    if original.parameters is shown.parameters or np.array_equal(original.parameters, shown.parameters):
        return None
    ids = [original.tokenizer.bos, *expected.greedy(original)][: original.config.block_size]
    difference = np.abs(original.logits(ids) - shown.logits(ids)).max()
    return f"weights in {weights}: logits within {difference:.1g} of the saved model's"


def example(model):
    """A text of the model's own for the page to begin with."""
    ids = expected.greedy(model)
    return model.tokenizer.decode([i for i in ids if i != model.tokenizer.bos])[:EXAMPLE]


def assembled(about, weights, names, core):
    """The page's text from its parts."""
    style, script = (WEB / "page.css").read_text(encoding="utf-8"), bundle(ENTRY)
    policy = (
        f"default-src 'none'; script-src '{digest(script)}' 'wasm-unsafe-eval'; style-src '{digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    values = dict(
        CSP=policy, STYLE=style, SCRIPT=script, ABOUT=about, WEIGHTS=weights, NAMES=names, CORE=core
    )
    parts = (WEB / "page.html").read_text(encoding="utf-8").split("@")
    parts[1::2] = [values[name] for name in parts[1::2]]
    return "".join(parts)


def bundle(entry):
    """A module and those that it imports, as one: those that are imported come first."""
    done, texts = set(), []

    def add(name):
        if name in done:
            return
        done.add(name)
        text = (WEB / name).read_text(encoding="utf-8")
        for other in IMPORT.findall(text):
            add(other)
        texts.append(EXPORT.sub("", IMPORT.sub("", text)))

    add(entry)
    script = "\n".join(texts)
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("the page's script would end its own element")
    return script


def digest(text):
    """The source of a content security policy that allows this text alone."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def inert(value):
    """JSON that no HTML parser takes for anything else: pure ASCII, without <, > and &."""
    text = json.dumps(value, allow_nan=False)
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def zipped(content):
    """Bytes as base64 of gzip."""
    return b64encode(gzip.compress(content, 9, mtime=0)).decode()
