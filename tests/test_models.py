"""Options of the model: in every backend what reference.py defines, which central differences confirm."""

import random
import types
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast.backends import composed, numpy_backend
from microgpt_fast.backends.engines import engine_of
from microgpt_fast.config import ACTIVATIONS, MLPS, POSITIONS, GPTConfig, UsageError
from microgpt_fast.presets import PRESETS
from microgpt_fast.reference import ReferenceGPT, initial_parameters

OPTIONS = {
    "tied": dict(tie_embeddings=True),
    "no-position": dict(position="none"),
    "alibi": dict(position="alibi"),
    "alibi-3-heads": dict(position="alibi", n_embd=12, n_head=3),
    "rope": dict(position="rope"),
    "qk-norm": dict(qk_norm=True),
    "qk-norm-scale": dict(qk_norm=True, qk_norm_scale=3.0),
    "gains": dict(norm_gain=True),
    "final-norm": dict(final_norm=True),
    "final-gain": dict(final_norm=True, norm_gain=True),
    "gated": dict(mlp="gated"),
    "gated-silu": dict(mlp="gated", activation="silu", mlp_hidden=7),
    "mlp-hidden": dict(mlp_hidden=5, activation="gelu"),
    "softcap": dict(logit_softcap=1.5),
    "value-embedding": dict(value_embedding=True),
    "attention": dict(residual="attention"),
    "attention-block": dict(residual="attention_block"),
    "attention-block-2": dict(residual="attention_block", layers_per_block=2, n_layer=3),
    "residual-scalars": dict(residual_scalars=True),
    "hyper": dict(residual="hyper"),
    "hyper-3-streams": dict(residual="hyper", n_streams=3, n_layer=1),
    "hyper-static": dict(residual="hyper", hyper_form="static"),
}
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


def any_options(seed):
    """Some options, drawn independently; without those that exclude each other."""
    draw = random.Random(seed)
    residual = draw.choice(["plain", "plain", "attention", "attention_block", "hyper"])
    flags = ("tie_embeddings", "qk_norm", "norm_gain", "final_norm", "value_embedding")
    return {
        **{flag: draw.random() < 0.5 for flag in flags},
        "position": draw.choice(POSITIONS),
        "activation": draw.choice(ACTIVATIONS),
        "mlp": draw.choice(MLPS),
        "logit_softcap": draw.choice([0.0, 3.0]),
        "residual": residual,
        "residual_scalars": residual == "plain" and draw.random() < 0.5,
        **({"n_streams": draw.choice([1, 2])} if residual == "hyper" else {}),
        **({"hyper_form": draw.choice(["dynamic", "static"])} if residual == "hyper" else {}),
        "n_layer": draw.choice([1, 2]),
    }


COMBINATIONS = {f"any-{seed}": any_options(seed) for seed in range(10)}
# the compiled backend and Numba go through the same code but for their kernels
SOME = ("alibi-3-heads", "rope", "attention-block-2", "hyper-3-streams", "any-1", "any-7")


class Setting:
    """A model at random weights, where gradients do not vanish, three documents, and what is right for them."""

    def __init__(self, options):
        sizes = dict(n_layer=2, n_embd=8, n_head=2, block_size=5)
        self.config = config = GPTConfig(6, **{**sizes, **options})
        draw = random.Random(3)
        self.parameters = initial_parameters(config, draw, std=0.5)
        for parameter in config.parameters():
            if parameter.start is not None:  # at a start such as 0 much has no gradient
                rows = self.parameters[parameter.name]
                spread = 0.05 if config.hyper_form == "static" else 0.5  # there 20 times it is an exponent
                rows[:] = [[value * spread / 2 + draw.gauss(0, spread) for value in row] for row in rows]
        self.documents = [[draw.randrange(6) for _ in range(n + 1)] for n in (4, 1, 5)]
        own = [p.name for p in config.parameters() if p.tied_to is None]
        self.params = np.concatenate([np.array(self.parameters[name]).ravel() for name in own])
        self.batch = (
            np.concatenate(self.documents).astype(np.int32),
            np.cumsum([0, *map(len, self.documents)])[:-1],
            np.array([4, 1, 5], np.int32),
        )
        reference = ReferenceGPT(config, self.parameters)
        self.loss, gradients = reference.loss_and_gradients(*self.documents)
        self.gradient = np.concatenate([np.array(gradients[name]).ravel() for name in own])
        self.logits = np.concatenate([reference.logits(text[:-1]) for text in self.documents])

    def tensors(self, flat):
        return {p.name: flat[p.place] for p in self.config.parameters() if p.tied_to is None}


_settings: dict[str, Setting] = {}


def setting(name):
    if name not in _settings:
        _settings[name] = Setting((OPTIONS | COMBINATIONS)[name])
    return _settings[name]


def check_gradients(backend, s, dtype="float64"):
    """The gradients are the reference's, to `TOLERANCE` of a tensor's largest element.

    Where that is far smaller than other tensors' (a single scale, a sum over all rows), it is of a part of theirs.
    """
    engine, tolerance = engine_of(backend, s.config, dtype), TOLERANCE[dtype]
    floor = (1e-2 if dtype == "float64" else 1e-1) * np.abs(s.gradient).max()
    grads = np.zeros(s.config.num_params, dtype)
    losses = engine.backward(grads, s.params.astype(dtype), *s.batch)
    assert losses.mean() == pytest.approx(s.loss, rel=tolerance)
    wanted = s.tensors(s.gradient)
    for name, tensor in s.tensors(grads).items():
        atol = tolerance * max(np.abs(wanted[name]).max(), floor)
        np.testing.assert_allclose(tensor, wanted[name], rtol=0, atol=atol, err_msg=name)


def check_logits(backend, s, dtype="float64"):
    """The logits of the batch, and of its documents token by token, are the reference's."""
    engine, params = engine_of(backend, s.config, dtype), s.params.astype(dtype)
    atol = TOLERANCE[dtype] * np.abs(s.logits).max()
    logits = np.empty(s.logits.shape, dtype)
    engine.forward(params, *s.batch, logits)
    np.testing.assert_allclose(logits, s.logits, rtol=0, atol=atol)
    decoder = engine.decoder(params)
    alone = [decoder.step(token, at) for text in s.documents for at, token in enumerate(text[:-1])]
    np.testing.assert_allclose(alone, s.logits, rtol=0, atol=atol)
    streams, together = engine.streams(params, 4), [[], [], []]
    for at in range(5):
        live = [i for i in (2, 0, 1) if at < len(s.documents[i]) - 1]
        rows = streams.step([i + 1 for i in live], [s.documents[i][at] for i in live], [at] * len(live))
        for i, row in zip(live, rows):
            together[i].append(row)
    np.testing.assert_allclose(np.concatenate(together), s.logits, rtol=0, atol=atol)


@pytest.mark.parametrize("name", OPTIONS | COMBINATIONS)
def test_numpy_is_the_reference(name):
    for dtype in TOLERANCE:
        check_gradients(numpy_backend, setting(name), dtype)
        check_logits(numpy_backend, setting(name), dtype)


@pytest.mark.parametrize("name", [*OPTIONS, *COMBINATIONS])
def test_every_backend_is_the_reference(backend, name):
    if backend.__name__.endswith("numba_backend") and name not in SOME:
        pytest.skip("composed of Numba's kernels, as others are")
    for dtype in TOLERANCE:
        check_gradients(backend, setting(name), dtype)
        check_logits(backend, setting(name), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [*OPTIONS, *COMBINATIONS])
def test_compiled_steps_of_large_batches_are_the_gradients(name, dtype):
    """With any number of threads the same bits; in training in several pieces, whose gradients are added up."""
    compiled = pytest.importorskip("microgpt_fast.backends.cython_backend")
    config = GPTConfig(
        6, **{**dict(n_layer=2, n_embd=24, n_head=2), **(OPTIONS | COMBINATIONS)[name], "block_size": 64}
    )
    draw = np.random.default_rng(5)
    params = draw.normal(0, 0.2, config.num_params).astype(dtype)
    tokens = draw.integers(0, 6, 500).astype(np.int32)
    batch = tokens, draw.integers(0, 400, 50), draw.integers(40, 65, 50).astype(np.int32)
    results = []
    for threads in (1, 3):
        engine = engine_of(compiled, config, dtype, threads=threads)
        grads, m, v, losses = *np.zeros((3, config.num_params), dtype), np.empty(1)
        wanted = engine.backward(grads, params, *batch)
        engine.train_steps(losses, params, m, v, *batch, 50, np.zeros(1), (0.5, 0.99, 1e-8, 0.0), 1)
        assert losses[0] == pytest.approx(wanted.mean(), rel=TOLERANCE[dtype])
        atol = 10 * TOLERANCE[dtype] * np.abs(grads).max()
        np.testing.assert_allclose(2 * m, grads, rtol=0, atol=atol)
        results.append((grads.tobytes(), m.tobytes(), losses.tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", OPTIONS | COMBINATIONS)
def test_gradients_are_central_differences(name):
    s, step = setting(name), 1e-6
    engine = engine_of(numpy_backend, s.config, "float64")
    draw = np.random.default_rng(1)
    for tensor_name, where in ((p.name, p.place) for p in s.config.parameters() if p.tied_to is None):
        direction = np.zeros_like(s.params)
        direction[where] = draw.standard_normal(where.stop - where.start)
        ahead, behind = (engine.forward(s.params + h * direction, *s.batch).mean() for h in (step, -step))
        slope = (ahead - behind) / (2 * step)
        assert slope == pytest.approx(s.gradient @ direction, rel=1e-5, abs=1e-7), tensor_name


def test_a_first_layer_that_has_nothing_to_choose_from_learns_no_choice():
    """One value only: its weight is 1 whatever w is. Equal streams: mixing them changes nothing."""
    for name, of in (("attention", "attn_res_proj"), ("attention-block", "attn_res_proj"),
                     ("hyper", "attn_hyper_res"), ("hyper-static", "attn_hyper_res")):  # fmt: skip
        s = setting(name)
        grads = np.zeros_like(s.params)
        engine_of(numpy_backend, s.config, "float64").backward(grads, s.params, *s.batch)
        got, wanted = (s.tensors(g) for g in (grads, s.gradient))
        assert np.abs(wanted[f"layer1.{of}"]).max() > 1e-4
        bound = 0 if of == "attn_res_proj" else 1e-14  # exactly but for rounding
        assert np.abs(got[f"layer0.{of}"]).max() <= bound
        assert np.abs(wanted[f"layer0.{of}"]).max() <= 1e-14


def test_alibis_slopes():
    assert GPTConfig(5, position="alibi").slopes == [0.25, 0.0625, 0.015625, 0.00390625]
    assert GPTConfig(5, position="alibi", n_embd=12, n_head=6).slopes == [
        2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3
    ]  # fmt: skip
    assert GPTConfig(5).slopes is None


def test_a_turned_query_and_key_know_their_distance_alone():
    from microgpt_fast.ops import rope_forward

    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 8))
    scores = [np.sum(rope_forward(q, [i + 3]) * rope_forward(k, [i])) for i in (0, 5, 11)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-12)
    assert abs(scores[0] - np.sum(q * k)) > 1e-3
    with pytest.raises(ValueError, match="D must be even, not 3"):
        rope_forward(np.ones((1, 1, 3)), [0])


def test_counts_of_parameters():
    assert GPTConfig(27, tie_embeddings=True).num_params == 3760
    assert GPTConfig(27, residual="attention").num_params == GPTConfig(27).num_params + 48
    assert GPTConfig(27, mlp="gated").mlp_width == 48 and GPTConfig(27, mlp_hidden=9).mlp_width == 9
    hyper = GPTConfig(27, residual="hyper", n_layer=3)
    assert hyper.num_params - GPTConfig(27, n_layer=3).num_params == 3 * 2 * (24 * 64 + 3 + 24)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(position="ropes"), "unknown position 'ropes'; did you mean rope"),
        (dict(residual="atention"), "did you mean attention"),
        (dict(mlp="gate"), "did you mean gated"),
        (dict(hyper_form="statik", residual="hyper"), "did you mean static"),
        (dict(position="rope", n_embd=12), "n_embd / n_head must be even, not 3"),
        (dict(residual="hyper", n_streams=0), "n_streams must be at least 1, not 0"),
        (dict(n_streams=2), "n_streams is for residual hyper, not plain"),
        (dict(residual="attention", layers_per_block=2), "layers_per_block is for residual attention_block"),
        (dict(hyper_form="static"), "hyper_form is for residual hyper"),
        (dict(qk_norm_scale=2.0), "qk_norm_scale is for qk_norm True"),
        (dict(residual="hyper", residual_scalars=True), "residual_scalars need residual plain, not hyper"),
        (dict(logit_softcap=-1), "logit_softcap must be a finite number at least 0"),
        (dict(qk_norm=True, qk_norm_scale=0), "qk_norm_scale must be a finite number above 0"),
        (dict(mlp_hidden=0), "mlp_hidden must be at least 1"),
        (dict(tie_embeddings=1), "tie_embeddings must be True or False, not 1"),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        GPTConfig(5, **options)


def test_a_model_too_large_for_this_machine_is_refused_before_it_is_made():
    with pytest.raises(UsageError, match="too large"):
        mg.Trainer(["anna"], residual="hyper", n_streams=2**31 - 1, num_steps=1)
    with pytest.raises(UsageError, match="too large"):
        mg.Trainer(["anna"], mlp_hidden=2**31 - 1, n_layer=1000, num_steps=1)


@pytest.mark.parametrize("preset", ["attention-residuals", "attention-residuals-block", "hyper-connections",
                                    "tied-alibi", "llama-like"])  # fmt: skip
def test_presets_learn_are_saved_and_draw(preset, tmp_path):
    assert preset in PRESETS
    run = mg.Trainer(["anna", "bob", "hannah"], preset=preset, num_steps=30, dtype="float32")
    [*run.events()]
    assert run.losses[-3:].mean() < run.losses[:3].mean()
    mg.save(run.model, tmp_path / "model")
    model = mg.load(tmp_path / "model")
    assert model.config == run.model.config
    assert model.parameters.tobytes() == run.model.parameters.tobytes()
    assert mg.generate(model, 3, seed=1) == mg.generate(run.model, 3, seed=1)
    assert len(mg.generate(model, 3, seed=1, batch_size=2)) == 3


def test_files_of_before_the_options_are_read(tmp_path):
    """Metadata without the options' names are those of the original's model."""
    from microgpt_fast.training import checkpoint

    model = mg.train(["anna", "bob"], num_steps=2).model
    old = {name: getattr(model.config, name) for name in ("vocab_size", "n_layer", "activation")}
    before = checkpoint.asdict
    checkpoint.asdict = lambda config: old if config is model.config else before(config)
    try:
        mg.save(model, tmp_path / "model")
    finally:
        checkpoint.asdict = before
    assert mg.load(tmp_path / "model").config == model.config


def test_the_command_takes_the_options(tmp_path, capsys):
    from microgpt_fast import cli

    (tmp_path / "names").write_text("anna\nbob\n")
    (tmp_path / "options.toml").write_text('position = "rope"\nqk_norm = true\nresidual = "attention"\n')
    train = ["train", "--data", str(tmp_path / "names"), "--num-steps", "1", "--num-samples", "1"]
    assert cli.main([*train, "--config", str(tmp_path / "options.toml"), "--no-qk-norm", "--final-norm"]) == 0
    err = capsys.readouterr().err
    assert "exact numerics do not support position rope, final_norm, residual attention" in err
    assert cli.main([*train, "--tie_embeddings=False", "--qk-norm", "True", "--dtype", "bfloat16"]) == 2
    assert "dtype bfloat16 does not support qk_norm: give dtype float32" in capsys.readouterr().err
    assert cli.main([*train, "--qk-norm=maybe"]) == 2
    assert "--qk-norm: True or False, not 'maybe'" in capsys.readouterr().err
    assert cli.main([*train, "--residual", "hyber"]) == 2
    assert "did you mean hyper?" in capsys.readouterr().err


# module: text in it, what is planted instead, options that must show it
DEFECTS = {
    "alibi's slopes forgotten": ("composed_layers", "if config.slopes is None else", "if True else", "alibi"),
    "rope's gradient turned forth": ("composed_layers", "kernels.rope_backward", "kernels.rope_forward", "rope"),
    "qk_norm's backward forgotten": (
        "composed_layers", "if config.qk_norm:\n            self._put(dqkv, calls",
        "if 0:\n            self._put(dqkv, calls", "qk-norm",
    ),
    "qk_norm_scale forgotten": (
        "composed_layers", "self.scale = config.attention_scale", "self.scale = config.head_dim**-0.5", "qk-norm",
    ),
    "a gain without gradient": (
        "composed_layers", "rmsnorm_backward(dx, dgain,", "rmsnorm_backward(dx, None,", "gains",
    ),
    "value embeddings without gradient": (
        "composed_layers", 'np.add.at(dw[block + "attn_ve"]', "(lambda *a: 0)(0", "value-embedding",
    ),
    "a gate without gradient": ("composed_layers", "x, w[fc3])", "x, 0 * w[fc3])", "gated"),
    "tied embeddings' lookup without gradient": (
        "composed_layers", 'self.kernels.embedding_backward(dw["wte"]', 'self.kernels.embedding_backward(dw["wte"] * 1',
        "tied",
    ),
    "softcap's slope forgotten": ("composed_layers", "dy * (1 - (y / cap) ** 2)", "dy", "softcap"),
    "the embedding's scale without gradient": (
        "composed_residual", "self.dx + self.dx0 if self.scales", "self.dx if self.scales", "residual-scalars",
    ),
    "a mixture without its norm's gradient": (
        "composed_residual", "alpha * dh + through_norm", "alpha * dh + 0 * through_norm", "attention",
    ),
    "blocks that are never begun": (
        "composed_residual", "layer % config.layers_per_block == 0", "layer == 0", "attention-block",
    ),
    "mixing by the transpose": ("composed_residual", "res @ streams", "res.transpose(0, 2, 1) @ streams", "hyper"),
    "sinkhorn's first division without gradient": (
        "composed_residual", "in reversed(range(len(steps)))", "in reversed(range(1, len(steps)))", "hyper-static",
    ),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_turns_the_check_red(defect, monkeypatch):
    module_name, text, instead, name = DEFECTS[defect]
    path = Path(composed.__file__).with_name(f"{module_name}.py")
    source = path.read_text(encoding="utf-8")
    assert source.count(text) == 1, "choose another place for the defect"
    module = types.ModuleType(module_name)
    module.__package__ = composed.__package__
    exec(compile(source.replace(text, instead), path, "exec"), module.__dict__)
    for changed in vars(module).keys() & vars(composed).keys():
        if not changed.startswith("__"):
            monkeypatch.setattr(composed, changed, getattr(module, changed))
    with pytest.raises(AssertionError, match="."):
        check_gradients(numpy_backend, setting(name))
