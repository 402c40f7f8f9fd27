"""A model that learns its text by heart: it is seen, said, and the best model is kept."""

from math import log

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.config import resolve
from microgpt_fast.data.load import BUILTIN, load_corpus
from microgpt_fast.sampling import originality
from microgpt_fast.training import findings
from microgpt_fast.training.resume import resume_training, save_training

NAMES = open(BUILTIN, encoding="utf-8").read().split()[::25]
SMALL = {"n_embd": 16, "block_size": 16, "dtype": "float32", "batch_size": 8, "val_fraction": 0.2}
OVERFITTING = {**SMALL, "num_steps": 1500, "eval_interval": 100, "learning_rate": 0.02, "n_layer": 2}


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of the program, run beside names.txt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture(scope="module")
def overfitted():
    return mg.train(NAMES, keep_best=True, **OVERFITTING)


def test_the_best_model_is_kept(overfitted):
    run = overfitted
    assert run.best.step < run.step == 1500 and run.kept is run.best
    assert run.validate() == run.best.loss < run.evaluations[-1].loss
    with run.last_step():
        assert run.validate() == run.evaluations[-1].loss
    assert run.validate() == run.best.loss
    last = mg.train(NAMES, **OVERFITTING)
    assert last.validate() == run.evaluations[-1].loss and last.kept is last.evaluations[-1]


def test_a_resumed_training_keeps_the_best_model_of_before(overfitted, tmp_path):
    part = mg.Trainer(NAMES, keep_best=True, **OVERFITTING)
    for event in part.events():
        part.stopping = event.step >= overfitted.best.step + 150
    save_training(part, tmp_path / "state")
    resumed = resume_training(tmp_path / "state", NAMES)
    [*resumed.events()]
    assert np.array_equal(resumed.model.parameters, overfitted.model.parameters)
    save_training(resumed, tmp_path / "end")
    assert np.array_equal(resumed.model.parameters, overfitted.model.parameters)
    longer = resume_training(tmp_path / "end", NAMES)
    with overfitted.last_step():
        assert np.array_equal(longer.model.parameters, overfitted.model.parameters)
    assert np.array_equal(longer.best_parameters, overfitted.best_parameters)


def test_what_is_said_of_a_model_is_true(overfitted):
    said = [*findings.findings(overfitted)]
    best = overfitted.best
    assert said[0].startswith(f"held-out loss {best.loss:.4f} at step {best.step}; guessing")
    assert "rose to" in said[1] and "that step is kept" in said[1] and len(said) == 2
    last = mg.train(NAMES, **{**OVERFITTING, "num_steps": 4000, "n_embd": 32})
    said = " ".join(findings.findings(last))
    assert "by heart" in said and "--keep-best keeps" in said and "is worse than guessing" in said
    untrained = mg.train(NAMES, **{**SMALL, "num_steps": 1, "learning_rate": 0.0, "init_std": 1.0})
    assert "hardly learned" in " ".join(findings.findings(untrained))
    assert not [*findings.findings(mg.train(NAMES, num_steps=1))]


@pytest.mark.parametrize("mode", ["lines", "stream"])
def test_the_guess_by_frequency_is_that_of_a_count(mode):
    corpus = load_corpus(NAMES if mode == "lines" else ["\n".join(NAMES)], mode=mode)
    run = mg.Trainer(corpus, **SMALL)
    guess = findings._by_frequency(run)
    if mode == "lines":

        def predicted(starts, lengths):
            parts = [corpus.tokens[s + 1 : s + n + 1] for s, n in zip(starts, lengths)]
            return np.concatenate(parts)

        counts = 1 + np.bincount(predicted(*run.batches.sequences(0, len(run.order))), minlength=27)
        held = predicted(*run.batches.validation)
        assert guess == pytest.approx(-np.log(counts[held] / counts.sum()).mean())
    assert 2 < guess < log(27)


def test_copies_of_lines_are_counted():
    corpus = load_corpus(["anna", "bob", "hannahannahannah"])
    texts = ["anna", "ann", "bob", "bob", "annab", "", "hannahan", "hannahanna"]
    assert originality.lines_copied(corpus, texts, block_size=16) == 3
    assert (
        originality.lines_copied(corpus, texts, block_size=8) == 5
    )  # cut lines, which the model sees no end of


def test_pieces_of_a_long_text_are_counted(monkeypatch):
    monkeypatch.setattr(originality, "PIECE", 100)
    letters = np.random.default_rng(3).choice([*"abcdefgh "], 1000)
    text = "".join(letters)
    corpus = load_corpus([text], mode="stream")
    fifty, fewer = text[430:480], text[500:549]
    assert originality.pieces_copied(corpus, [fifty, fewer, "a" + fifty + "b", "", fifty[:-1] + "ab"]) == 2
    assert originality.pieces_copied(corpus, [text[60:120]]) == 1  # over the end of a piece
    assert originality.pieces_copied(corpus, ["ab"]) == 0


def test_a_short_text_gets_few_steps_and_says_so(run):
    assert resolve("laptop-10s")[1].keep_best and resolve("laptop-1min")[1].patience
    code, out, err = run(
        "train", "--preset", "laptop-10s", "--data", "names.txt", "--time-budget", "20s", "--num-samples", 9
    )
    assert code == 0 and "more would only teach this text by heart" in err
    assert "are over before the training" not in err  # the budget counts from the call of main
    assert "of 9 samples are lines of the data" in err and "; guessing characters by their frequency" in err
    assert out.count("sample ") == 9


def test_a_number_of_steps_in_a_laptop_preset_is_validated_along_the_way():
    assert resolve("laptop-1min", num_steps=500)[1].eval_interval == 50
    assert resolve("laptop-1min", num_steps=500, val_fraction=0)[1].eval_interval == 0
    assert resolve("laptop-1min", num_steps=500, eval_interval=7)[1].eval_interval == 7


def test_what_is_cut_off_is_said_with_its_share(tmp_path):
    (tmp_path / "chat").write_text(("a" * 10 + "\n") * 9 + "b" * 20 + "\n")
    assert load_corpus(tmp_path / "chat", block_size=20).note is None
    note = load_corpus(tmp_path / "chat", block_size=15).note
    assert "5% of the text lies beyond the first 15 tokens of its line" in note and "--block-size" in note


def test_a_prompt_longer_than_the_block_is_read_by_its_end(overfitted):
    prompt = "anna" * 10
    for batch_size in (1, 3):
        for text in mg.generate(overfitted.model, 3, prompt=prompt, max_new_tokens=5, batch_size=batch_size):
            assert text.startswith(prompt)
