"""Equal runs write equal files; what objects show of themselves; texts and names of files."""

import os
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.config import UsageError
from microgpt_fast.training.plot import plot

NAMES = ["anna", "bob", "hannah", "otto", "eve"] * 4
OPTIONS = "--n-embd 8 --n-head 2 --num-samples 3 --num-steps 30 --val-fraction 0.2 --eval-interval 7".split()


@pytest.fixture
def runs(tmp_path, monkeypatch, capfd):
    """The folders of two equal runs, one of them stopped and resumed, and of a longer one."""
    monkeypatch.chdir(tmp_path)
    Path("names").write_text("\n".join(NAMES) + "\n")
    command = ["train", "--data", "names", *OPTIONS, "--keep-best", "True"]
    assert cli.main([*command, "--out", "one"]) == 0
    assert cli.main([*command, "--out", "two"]) == 0
    assert cli.main([*command, "--num-steps", "2000", "--out", "long"]) == 0
    return ["one", "two", "long"]


def test_equal_runs_write_equal_files(runs):
    for name in os.listdir("one"):
        one, two = (Path(folder, name).read_bytes() for folder in ("one", "two"))
        assert one == two or name == "metrics.jsonl"
    assert b"seconds" not in Path("one/last.safetensors").read_bytes()


def test_equal_models_are_equal_files_in_any_order_of_metadata(tmp_path, monkeypatch):
    import safetensors.numpy

    model = mg.train(NAMES, num_steps=3, backend="numpy").model
    save = safetensors.numpy.save
    orders = [dict, lambda metadata: dict(reversed(metadata.items()))]
    for index, order in enumerate(orders):
        monkeypatch.setattr(safetensors.numpy, "save", lambda tensors, data, o=order: save(tensors, o(data)))
        mg.save(model, tmp_path / f"{index}")
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    assert np.array_equal(mg.load(tmp_path / "0").parameters, model.parameters)
    assert (int.from_bytes((tmp_path / "0").read_bytes()[:8], "little")) % 8 == 0


def test_a_resumed_run_goes_on_counting_its_seconds(runs):
    spent = max(line["seconds"] for line in mg.training.runs.read_metrics("one"))
    with mg.Run.resume("one", num_steps=40) as kept:
        assert kept.trainer.seconds == kept.trainer.since[2] == spent


@pytest.mark.parametrize("against", ["step", "seconds", "share"])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_curves_of_runs_of_different_length(runs, against, kind):
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        plot(runs, f"{name}.{kind}", against)
    assert Path(f"a.{kind}").read_bytes() == Path(f"b.{kind}").read_bytes()


@pytest.mark.parametrize(
    "options, scale", [([], "log"), (["--no-log"], "linear"), (["--against", "share"], "linear")]
)
def test_a_tenfold_difference_is_shown_in_logarithms(runs, options, scale, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    assert cli.main(["plot", "one", "long", *options]) == 0
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == scale
    assert [line.get_marker() for line in axes.lines].count("*") == 2  # the best validations


def test_objects_say_what_they_are():
    run = mg.train(NAMES, num_steps=3, backend="numpy")
    text = repr(run)
    assert text.startswith("Trainer(GPT(n_layer 1, n_head 4, n_embd 16") and "step 3 of 3" in text
    assert repr(run.corpus) == "Corpus(20 documents, 120 tokens, vocabulary of 9, mode lines)"
    assert repr(run.model).endswith("parameters, float64, fast)")


def test_a_text_is_no_name_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = mg.train([*NAMES, "a b"], num_steps=3, backend="numpy").model
    assert mg.score(model, "anna bob").summary() == mg.score(model, ["anna bob"]).summary()
    Path("anna").write_text("bob\n")
    assert mg.score(model, "anna").summary() == mg.score(model, ["bob"]).summary()
    with pytest.raises(UsageError, match=r"'bob' is no file; to score it as a text, give a list: \['bob'\]"):
        mg.score(model, "bob")
