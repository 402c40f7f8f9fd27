"""The page of a model as a file: complete, of the size that is promised, and inert whatever the model's texts are."""

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from gzip import decompress
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_wasm import node

import microgpt_fast as mg
from microgpt_fast.cli import main
from microgpt_fast.config import GPTConfig, UsageError
from microgpt_fast.export import page as pages
from microgpt_fast.export import wasm

HOSTILE = (
    "</script><script>alert(1)</script>\n<!--\n&amp;\u2028\u2029\n\"'`\\${1}\n<img src=x onerror=alert(1)>\n"
)


@pytest.fixture(autouse=True)
def core(request, monkeypatch):
    """Any bytes will do for the core, but where a test asks for the real one."""
    if "built_core" not in request.fixturenames:
        monkeypatch.setattr(wasm, "core", lambda bits: b"core")


@pytest.fixture(scope="module")
def model():
    return mg.train(HOSTILE.splitlines(), num_steps=30, dtype="float32").model


class Elements(HTMLParser):
    """What a page is made of: the elements' names, and the text in those with an id."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.texts, self.open = [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        self.open.append(dict(attributes).get("id") or tag)

    def handle_endtag(self, tag):
        if self.open:
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data


def test_texts_of_the_model_stay_texts(model):
    plain = Elements(pages.page(mg.train(["ab"], num_steps=0).model).decode())
    content = pages.page(model, name=HOSTILE).decode()
    hostile = Elements(content)
    assert hostile.names == plain.names
    about = json.loads(hostile.texts["about"])
    assert about["name"] == HOSTILE and about["tokenizer"]["chars"] == model.tokenizer.chars
    assert all(char not in hostile.texts["about"] for char in "<>&\u2028")


def test_the_policy_allows_this_script_and_style_alone(model):
    found = Elements(pages.page(model).decode())
    [policy] = [value for _, name, value in found.attributes if name == "content" and "src" in value]
    assert policy == (
        f"default-src 'none'; script-src '{pages.digest(found.texts['script'])}' 'wasm-unsafe-eval'; "
        f"style-src '{pages.digest(found.texts['style'])}'; base-uri 'none'; form-action 'none'"
    )
    assert not [
        pair for pair in found.attributes if pair[1] in ("src", "href", "style") and pair[2] != "#main"
    ]
    assert not [pair for pair in found.attributes if pair[1].startswith("on")]


def test_nothing_in_the_page_reads_markup_or_the_network():
    script = pages.bundle(pages.ENTRY)
    words = "innerHTML insertAdjacent document.write eval( Function( fetch( XMLHttpRequest WebSocket import( DOMParser"
    assert [word for word in words.split() if word in script] == []
    assert set(re.findall(r"https?://\S+?[\"'`]", script)) == {'http://www.w3.org/2000/svg"'}


def test_the_bundle_is_every_module_once():
    script = pages.bundle(pages.ENTRY)
    for file in pages.WEB.glob("*.js"):
        assert script.count(file.read_text(encoding="utf-8").splitlines()[0]) == 1, file.name
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)


@pytest.mark.parametrize("weights", pages.WEIGHTS)
def test_the_page_restores_the_weights(model, weights, tmp_path):
    found = Elements(pages.page(model, weights).decode())
    content = decompress(b64decode(found.texts["weights"]))
    (tmp_path / "weights").write_bytes(content)
    config = json.dumps(json.loads(found.texts["about"])["config"])
    restored = np.array(node("weights.mjs", tmp_path / "weights", weights, config), np.float32)
    _, wanted = pages.packed(model, weights)
    assert np.array_equal(restored, wanted)
    bound = {"float32": 0, "float16": 2**-11, "int8": 0.5 / 127}[weights]
    assert np.abs(restored - model.parameters).max() <= bound * np.abs(model.parameters).max() * 1.0001
    size = {"float32": 4, "float16": 2, "int8": 1}[weights] * model.config.num_params
    assert size <= len(content) <= 1.3 * size


def test_what_smaller_weights_cost_is_said(model):
    assert json.loads(Elements(pages.page(model).decode()).texts["about"])["note"] is None
    note = json.loads(Elements(pages.page(model, "int8").decode()).texts["about"])["note"]
    assert re.fullmatch(r"weights in int8: logits within \S+ of the saved model's", note)


def test_a_weight_that_does_not_fit_is_refused(model):
    large = mg.train(["ab"], num_steps=0, dtype="float32").model
    large.parameters[0] = 1e5
    with pytest.raises(UsageError, match="does not fit into float16"):
        pages.page(large, "float16")
    with pytest.raises(UsageError, match=r"unknown weights 'int4' \(allowed: float32, float16, int8\)"):
        pages.page(model, "int4")


def test_a_model_too_large_is_refused_here_and_there():
    for options in (
        dict(n_embd=4096),
        dict(block_size=100_000),
        dict(n_layer=300, n_embd=128),
        dict(n_embd=512),
    ):
        config = GPTConfig(27, **options)
        is_large = pages.bytes_in_page(config) >= pages.LARGEST
        assert node("refusal.mjs", json.dumps(vars(config))) == is_large == (options != dict(n_embd=512))
    model = mg.train(["ab"], num_steps=0).model
    model.config = GPTConfig(model.config.vocab_size, n_embd=4096)
    with pytest.raises(UsageError, match="201,416,704 parameters: it is too large"):
        pages.page(model)


def test_a_model_of_an_unknown_option_is_refused_by_name():
    @dataclass(frozen=True)
    class WiderConfig(GPTConfig):
        tie_embeddings: bool = False

    model = mg.train(["ab"], num_steps=0).model
    model.config = WiderConfig(model.config.vocab_size, tie_embeddings=True)
    with pytest.raises(UsageError, match="a page cannot run a model with tie_embeddings True"):
        pages.page(model)


@pytest.mark.slow
def test_sizes(built_core):
    assert len(pages.page(mg.train(num_steps=0).model)) < 450_000
    options = dict(n_layer=4, n_embd=128, block_size=64, data_mode="stream", num_steps=0, dtype="float32")
    chars = "".join(map(chr, range(33, 98)))
    assert len(pages.page(mg.train([chars * 3], **options).model, "float16")) < 2_600_000


def test_the_commands(tmp_path, capsys, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    mg.save(model, "model.safetensors")
    assert main(["export", "model.safetensors", "--to", "model.html", "--weights", "int8"]) == 0
    assert json.loads(Elements(Path("model.html").read_text()).texts["about"])["name"] == "model.safetensors"
    assert main(["page"]) == 0
    about = json.loads(Elements(Path("microgpt.html").read_text()).texts["about"])
    assert (about["opens"], about["config"]["n_embd"]) == ("train", 16)
    capsys.readouterr()
    for wrong in (
        ["export", "model.safetensors", "--to", "m.c", "--weights", "int8"],
        ["page", "--to", "page.txt"],
        ["page", "--to", "none/page.html"],
        ["export", "model.safetensors", "--to", "m.html", "--weights", "half"],
    ):
        assert main(wrong) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_without_a_compiler_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    def missing(bits):
        raise UsageError("pip install 'microgpt-fast[web]'")

    monkeypatch.setattr(wasm, "core", missing)
    assert main(["page", "--to", str(tmp_path / "page.html")]) == 2
    assert "pip install" in capsys.readouterr().err and not list(tmp_path.iterdir())
