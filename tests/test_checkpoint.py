import errno
import json
import os
import stat
from dataclasses import asdict

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import microgpt_fast as mg
from microgpt_fast.training import checkpoint
from microgpt_fast.training.checkpoint import CheckpointError, check_writable, load, save
from microgpt_fast.training.resume import fingerprint, resume_training


def small(dtype="float64", **options):
    return mg.train(
        ["añb", "b😀"],
        num_steps=3,
        n_embd=2,
        n_head=1,
        block_size=3,
        dtype=dtype,
        backend="numpy",
        temperature=0.7,
        **options,
    ).model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save(small(), path)
    return path


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("preset", ["microgpt", "first-revision"])
def test_a_model_comes_back_bit_for_bit(dtype, preset, tmp_path):
    model = small(dtype, preset=preset)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model", backend="numpy")
    assert loaded.parameters.dtype == dtype and np.array_equal(loaded.parameters, model.parameters)
    assert loaded.config == model.config and loaded.train_config == model.train_config
    assert loaded.tokenizer.chars == "abñ😀" and loaded.tokenizer.bos == model.tokenizer.bos
    assert mg.generate(loaded) == mg.generate(model)


def test_a_model_without_text_comes_back(tmp_path):
    model = mg.GPT(mg.GPTConfig(5), backend="numpy")
    model.parameters[:] = np.arange(len(model.parameters))
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model", backend="numpy")
    assert np.array_equal(loaded.parameters, model.parameters)
    assert loaded.tokenizer is None and loaded.train_config is None


def test_other_programs_find_the_parameters_by_name(saved):
    model = small()
    tensors = load_file(saved)
    assert set(tensors) == set(model.config.shapes())
    for name, tensor in tensors.items():
        assert np.array_equal(tensor, model.tensors[name])


def test_every_truncated_file_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    for length in [*range(0, len(content), 7), len(content) - 1]:
        (tmp_path / "part").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="part"):
            load(tmp_path / "part", backend="numpy")


@pytest.mark.slow
def test_every_damaged_byte_is_found(saved, tmp_path):
    content = bytearray(saved.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for position in [*range(header), *range(header, len(content), 41)]:
        damaged = content.copy()
        damaged[position] ^= 1
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ValueError):
            load(tmp_path / "damaged", backend="numpy")


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"\x80\x04\x95" + bytes(500), bytes(1000), b"\xff" * 1000]
)
def test_files_of_another_kind_are_refused(content, tmp_path):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(CheckpointError, match="other: not a model file"):
        load(tmp_path / "other")


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({"wte": np.zeros((2, 2))}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="not a model of microgpt_fast"):
        load(tmp_path / "other")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("version", "2", "format version '2'"),
        ("config", "{", "damaged metadata"),
        ("config", "[]", "damaged metadata"),
        ("config", '{"vocab_size": 5, "unknown": 1}', "damaged metadata"),
        ("config", '{"vocab_size": 5, "n_layer": 1000000000}', "tensors do not fit the configuration"),
        ("config", None, "damaged metadata"),
        ("tokenizer", '{"chars": "ab", "bos": "middle"}', "damaged metadata"),
        ("train_config", '{"num_steps": -1}', "damaged metadata"),
        ("crc32", "0", "does not match its checksum"),
    ],
)
def test_metadata_are_checked(key, value, message, saved):
    model = small()
    metadata = {
        "format": "microgpt_fast",
        "version": "1",
        "config": json.dumps(vars(model.config)),
        "tokenizer": "null",
        "train_config": "null",
        "crc32": "1",
        key: value,
    }
    save_file(model.tensors, saved, {name: text for name, text in metadata.items() if text is not None})
    with pytest.raises(CheckpointError, match=message):
        load(saved, backend="numpy")


DEEP = "[" * 3000 + "]" * 3000


def forged(path, model, training=None, arrays=None, **texts):
    """Write a file whose checksum is right, with other JSON texts in its metadata."""
    metadata = {
        "format": "microgpt_fast",
        "version": "1",
        "config": json.dumps(asdict(model.config)),
        "tokenizer": json.dumps(model.tokenizer.constants()),
        "train_config": json.dumps(asdict(model.train_config)),
        **({} if training is None else {"training": training}),
        **texts,
    }
    arrays = arrays or {}
    metadata["crc32"] = checkpoint._checksum(metadata, model.parameters, arrays)
    arrays = {f"training.{name}": array for name, array in arrays.items()}
    save_file({**model.tensors, **arrays}, path, metadata)


@pytest.mark.parametrize("name", ["config", "tokenizer", "train_config", "training"])
@pytest.mark.parametrize(
    "text",
    ["5", "0", "false", '""', "[]", "[1, 2]", '"x"', "1e999", "NaN", "9" * 5000, DEEP, '{"a":' * 3000, "{}"],
    ids=lambda text: text[:10],
)
def test_json_of_any_other_kind_is_refused_in_one_short_line(name, text, tmp_path):
    if (name, text) == ("train_config", "{}"):
        return  # the defaults
    forged(tmp_path / "model", small(), **{name: text})
    with pytest.raises(CheckpointError, match="model: damaged metadata") as error:
        load(tmp_path / "model", backend="numpy")
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("step", "1e999", "step must be a whole number"),
        ("step", "-1", "step must be at least 0"),
        ("step", str(2**53), "do not fit"),
        ("step", str(10**400), "step must be at most"),
        ("step", '"3"', "step must be a whole number"),
        ("tokens", "null", "tokens must be"),
        ("seconds", "-1.0", "seconds must be"),
        ("seconds", "NaN", "NaN is not a number"),
        ("random", "[3, [1], null]", "with 625 words"),
        ("random", "[2, [], null]", "of version 3"),
        ("random", json.dumps([3, [*range(624), 625], None]), "must lie in 0 ... 624"),
        ("random", json.dumps([3, [*range(623), 2**32, 624], None]), "32 bits"),
        ("random", json.dumps([3, [*range(623), -1, 624], None]), "32 bits"),
        ("random", json.dumps([3, [0] * 624 + [624], None]), "not all"),
        ("random", json.dumps([3, [*range(624), 624], "x"]), "normal deviate"),
        ("random", "5", "random stream must be"),
        ("evaluations", "[[1, 2.0]]", "an evaluation must be"),
        ("evaluations", '{"1": 2}', "evaluations must be a list"),
        ("evaluations", "[[9, 2.0, true]]", "must be at most 3"),
        ("evaluations", "[[2, 2.0, true], [2, 2.0, true]]", "must be at least 3"),
        ("evaluations", "[[1, 1e999, true]]", "finite number"),
        ("data", "[1, 2, 3]", "other data"),
    ],
)
def test_the_state_of_a_training_is_checked(name, value, message, tmp_path):
    data = mg.load_corpus(["añb", "b😀"])
    run = mg.Trainer(data, num_steps=3, n_embd=2, n_head=1, block_size=3, backend="numpy")
    [*run.events()]
    state = {
        "step": run.step,
        "tokens": run.tokens,
        "seconds": run.seconds,
        "evaluations": [],
        "random": run.random.getstate(),
        "data": fingerprint(data),
    }
    arrays = {"m": run.moments[0], "v": run.moments[1], "losses": run.losses}
    texts = {key: json.dumps(part) for key, part in state.items()}

    def write():
        training = "{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}"
        forged(tmp_path / "model", run.model, training, arrays)

    write()
    assert resume_training(tmp_path / "model", data).step == 3
    texts[name] = value
    write()
    with pytest.raises(CheckpointError, match=message):
        resume_training(tmp_path / "model", data)


def test_what_a_file_says_of_its_size_is_believed_only_where_it_fits(tmp_path, monkeypatch):
    """No memory is asked for before the tensors' shapes are known to be those of the configuration."""
    model = small()
    sizes = {**asdict(model.config), "block_size": 2**31 - 1, "n_embd": 2**30}
    forged(tmp_path / "model", model, config=json.dumps(sizes))
    monkeypatch.setattr(
        "microgpt_fast.model.np.zeros", lambda *arguments: pytest.fail("memory was asked for")
    )
    with pytest.raises(CheckpointError, match="do not fit the configuration"):
        load(tmp_path / "model", backend="numpy")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_is_not_finite_is_loaded_but_not_used(bad, tmp_path):
    model = small()
    model.tensors["wpe"][2] = bad  # not seen by the first token alone
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model", backend="numpy")
    with pytest.raises(ValueError, match="did its training diverge"), np.errstate(all="ignore"):
        mg.score(loaded, ["añb"])
    with pytest.raises(ValueError, match="did its training diverge"):
        mg.generate(loaded, 1)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_what_was_there(failing, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        save(small(), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_an_existing_file_is_replaced_also_through_a_link(saved, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(saved)
    model = mg.GPT(mg.GPTConfig(3), backend="numpy")
    save(model, link)
    assert link.is_symlink() and load(saved, backend="numpy").config == model.config
    assert sorted(os.listdir(tmp_path)) == ["link", saved.name]


def test_a_new_file_has_the_usual_permissions(saved):
    (saved.parent / "usual").touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((saved.parent / "usual").stat().st_mode)


def test_places_that_cannot_be_written_are_found_early(tmp_path):
    for path, error in (
        (tmp_path, IsADirectoryError),
        (tmp_path / "missing" / "model", FileNotFoundError),
        (f"{tmp_path}/new/", IsADirectoryError),
        ("/dev/null", OSError),
        (tmp_path / ("x" * 300), OSError),
    ):
        with pytest.raises(error) as caught:
            check_writable(path)
        assert caught.value.filename == str(path)
    check_writable(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_a_file_that_may_not_be_written_is_not_replaced(saved, monkeypatch):
    monkeypatch.setattr(checkpoint.os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError):
        check_writable(saved)
