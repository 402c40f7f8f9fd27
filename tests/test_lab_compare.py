"""Arms, their report, and the command `compare`."""

import json

import pytest

from microgpt_fast.cli import main
from microgpt_fast.config import UsageError
from microgpt_fast.lab.arms import Arm, check_arms, combinations, parse_vary
from microgpt_fast.lab.compare import compare
from microgpt_fast.lab.comparison import Comparison, rounded
from microgpt_fast.lab.report import as_dict, table

NAMES = ["anna", "bert", "clara", "dora", "emil", "fritz", "gerda", "hans", "ida", "jan"]


def command(capfd, *arguments):
    code = main(["compare", *arguments])
    return code, *capfd.readouterr()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("names.txt").write_text("\n".join(NAMES))
    return tmp_path


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("activation=relu,relu2", ("activation", ["relu", "relu2"])),
        ("n-layer=1,2", ("n_layer", [1, 2])),
        ("learning_rate=1e-2,3", ("learning_rate", [0.01, 3])),
        ("zero_init=true,false", ("zero_init", [True, False])),
        ("min_lr=0,1", ("min_learning_rate", [0, 1])),
        ("time_budget=1s,2s", ("time_budget", ["1s", "2s"])),
        ("preset=microgpt,first-revision", ("preset", ["microgpt", "first-revision"])),
    ],
)
def test_values_to_vary_are_parsed(text, wanted):
    assert parse_vary(text) == wanted


@pytest.mark.parametrize(
    "text, reason",
    [
        ("activatoin=relu", "did you mean activation"),
        ("n_layer", "NAME=VALUE"),
        ("n_layer=1,,2", "NAME=VALUE"),
        ("n_layer=1,1", "1 is given twice"),
        ("seed=1,2", "--seeds"),
        ("tokenizer=char,byte", "different tokens"),
        ("dropout=0,1", "no dropout"),
        ("save=a,b", "no option of a model"),
    ],
)
def test_what_cannot_be_varied(text, reason):
    with pytest.raises(UsageError, match=reason):
        parse_vary(text)


def test_combinations():
    vary = {"activation": ["relu", "relu2"], "zero_init": [True]}
    assert combinations(vary, [("a", {"n_layer": 2})]) == {
        "a activation=relu zero_init=true": {"n_layer": 2, "activation": "relu", "zero_init": True},
        "a activation=relu2 zero_init=true": {"n_layer": 2, "activation": "relu2", "zero_init": True},
    }
    assert combinations({}, [("a", {}), ("b", {"n_layer": 2})]) == {"a": {}, "b": {"n_layer": 2}}


def test_arms_are_checked_before_anything_runs():
    for arms, common, reason in (
        ([{"n_head": 3}], {}, "arm 'n_head=3': n_embd must be a multiple"),
        ([{"n_heads": 3}], {}, "did you mean n_head"),
        ([{"num_steps": 0}], {}, "num_steps must be at least 1"),
        ([{}], {"val_fraction": 0}, "val_fraction must be above 0"),
        ([{}, {}], {}, "same options"),
        ([], {}, "no arms"),
        ([{"activation": "relu3"}], {}, "arm 'activation=relu3': unknown activation"),
    ):
        with pytest.raises(UsageError, match=reason):
            check_arms(arms, common)
    [arm] = check_arms([{"preset": "nanogpt-cpu"}], {"threads": 2})
    assert (arm.options["val_fraction"], arm.options["threads"]) == (0.1, 2)
    assert "seed" not in arm.settings() and arm.settings()["n_embd"] == 128


def run_of(loss, **more):
    return {
        "loss": loss, "steps": 100, "us_per_step": 2.0, "num_params": 4192, "held_out_tokens": 99, "curve": [3.0],
        "evaluations": [[100, loss]], **more,
    }  # fmt: skip


def comparison(*losses, **more):
    arms = [Arm(name, {}) for name in "abcd"[: len(losses)]]
    results = {(i, seed): run_of(loss) for i, arm in enumerate(losses) for seed, loss in enumerate(arm)}
    return Comparison(arms, range(len(losses[0])), {**results, **more})


def test_sentences_say_what_the_pairs_tell():
    first = [2.40, 2.42, 2.44, 2.46]
    better, worse = [loss - 0.012 for loss in first], [loss + 0.1 for loss in first]
    better[0] += 0.001
    result = comparison(first, better, worse, first)
    assert result.sentences[:3] == [
        "b is better by 0.01175 ± 0.00080 nats than a, 4 seeds",
        "c is worse by 0.10 ± 0.00 nats than a, 4 seeds",
        "d is the same as a: equal losses with every seed",
    ]
    assert result.sentences[3].startswith("3 comparisons at once") and "14%" in result.sentences[3]
    assert "of 2 clear ones all of them remain" in result.sentences[3]
    [unclear] = comparison(first, [2.41, 2.40, 2.45, 2.44]).sentences
    assert unclear == (
        "b: whether it is better than a cannot be told from 4 seeds (-0.005 ± 0.028 nats); about 97 seeds would "
        "tell, if the difference is what it seems"
    )
    assert "give more" in comparison([2.4], [2.5]).sentences[0]


def test_what_makes_intervals_say_less_is_told():
    arms = [Arm("a", {}), Arm("b", {})]
    results = {(0, 0): run_of(2.4), (0, 1): run_of(2.5), (1, 0): run_of(2.3), (1, 1): {"diverged": "step 3"}}
    result = Comparison(arms, range(2), results)
    assert any("b diverged with 1 of 2 seeds" in sentence for sentence in result.sentences)
    assert any("not measured on the same" in sentence for sentence in result.sentences)
    assert as_dict(result)["arms"][1]["diverged"] == {"1": "step 3"}
    nothing = Comparison(
        arms, range(2), {(0, 0): run_of(2.4), (1, 0): {"diverged": "x"}, (1, 1): {"diverged": "x"}}
    )
    assert "no result" in "\n".join(table(nothing))


def test_values_have_the_digits_of_their_interval():
    assert rounded(0.01234, 0.00456) == ("0.0123", "0.0046")
    assert rounded(-0.0000123, 0.00456) == ("0.0000", "0.0046")
    assert rounded(12.34, 45.6) == ("12", "46")


def test_divergence_is_a_result(tmp_path):
    out = tmp_path / "out.jsonl"
    for _ in range(2):
        result = compare({"wild": {"learning_rate": 1e30}}, 2, NAMES, num_steps=30, out=out)
        assert result.done == 2 and len(result.arms[0].diverged) == 2 and result.arms[0].mean is None


def test_different_held_out_tokens_are_told():
    arms = [{"block_size": 16}, {"block_size": 3}]
    assert any("block_size" in warning for warning in compare(arms, 2, NAMES, num_steps=5).warnings)


@pytest.mark.slow
def test_the_command(here, capfd):
    vary = (
        "--data",
        "names.txt",
        "--vary",
        "n_embd=8,16",
        "--seeds",
        "2",
        "--num-steps",
        "10",
        "--workers",
        "1",
    )
    code, out, err = command(capfd, *vary, "--csv", "a.csv")
    assert code == 0 and out.startswith("arm ") and "n_embd=16" in out
    [kept] = here.glob("compare-*.jsonl")
    assert kept.name in err and len(kept.read_text().splitlines()) == 5
    assert len(here.joinpath("a.csv").read_text().splitlines()) == 5
    code, out, err = command(capfd, *vary, "--json", "--seed", "43")
    result = json.loads(out)
    assert result["runs"] == 4 and result["seeds"] == [43, 44] and [*here.glob("compare-*.jsonl")] == [kept]
    low, high = result["arms"][1]["difference"]["interval"]
    assert low < result["arms"][1]["difference"]["mean"] < high


@pytest.mark.slow
def test_the_picture(here, capfd):
    pytest.importorskip("matplotlib")
    for more in ((), ("--eval-interval", "5", "--val-fraction", "0.2")):
        vary = (
            "--data",
            "names.txt",
            "--vary",
            "zero_init=true,false",
            "--seeds",
            "2",
            "--num-steps",
            "10",
            *more,
        )
        assert command(capfd, *vary, "--plot", "a.svg")[0] == 0
        assert "zero_init=false" in here.joinpath("a.svg").read_text()
    assert command(capfd, *vary, "--plot", "a.unknown")[0] == 2


@pytest.mark.slow
def test_arms_from_files(here, capfd):
    here.joinpath("one.toml").write_text("n_embd = 8\nmax_iters = 10\ndata = 'names.txt'\nsave = 'unused'\n")
    here.joinpath("two.toml").write_text("num_steps = 20\n")
    code, out, _ = command(
        capfd, "--config", "one.toml", "two.toml", "--seeds", "2", "--json", "--workers", "1"
    )
    first, second = json.loads(out)["arms"]
    assert code == 0 and (first["name"], second["name"]) == ("one", "two")
    assert (first["steps"], second["steps"], first["options"]["n_embd"]) == (10, 20, 8)
    here.joinpath("two.toml").write_text("data = 'others.txt'\n")
    code, _, err = command(capfd, "--config", "one.toml", "two.toml")
    assert code == 2 and "all arms need the same" in err


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ((), "give what to compare"),
        (("--vary", "n_layer=1,2", "--n-layer", "3"), "both varied and the same"),
        (("--vary", "n_layer=1,2", "--vary", "n_layer=3"), "given twice"),
        (("--vary", "n_layer=1,2", "--seeds", "5001"), "10,002 runs, more than 10,000: give --yes"),
        (("--vary", "n_layer=1,2", "--seeds", "0"), "at least 1"),
        (("--vary", "n_layer=1,2", "--data", "-"), "standard input"),
        (("--vary", "n_layer=1,2", "--data", "missing"), "cannot read missing"),
        (("--vary", "activation=relu,rleu2"), "did you mean relu2"),
        (("--vary", "n_head=4,5"), "arm 'n_head=5'"),
        (("--config", "missing.toml"), "cannot read missing.toml"),
    ],
)
def test_bad_input_is_one_line(here, capfd, arguments, reason):
    code, out, err = command(capfd, *arguments)
    assert (code, out) == (2, "") and reason in err and err.count("\n") == 1
    assert [*here.iterdir()] == [here / "names.txt"]
