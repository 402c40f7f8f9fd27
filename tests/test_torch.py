"""The kernels inside PyTorch: derivatives, compiled graphs, transforms, modules, files, the optimizer."""

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import microgpt_fast  # noqa: E402
import microgpt_fast.torch as fast  # noqa: E402
from microgpt_fast import backends, ops  # noqa: E402
from microgpt_fast.config import ACTIVATIONS  # noqa: E402
from microgpt_fast.random_stream import seeded  # noqa: E402
from microgpt_fast.torch import calls, operators  # noqa: E402

F = torch.nn.functional
CU = torch.tensor([0, 3, 3, 7], dtype=torch.int32)
TOKENS, POSITIONS = torch.tensor([4, 0, 4, 2, 1, 1, 3]), torch.tensor([0, 1, 2, 0, 1, 2, 3])


def draw(*shape, dtype=torch.float64):
    return torch.from_numpy(RNG.standard_normal(shape)).to(dtype).requires_grad_()


RNG = np.random.default_rng(0)
# name: (our function, torch's, the tensors that both take)
FUNCTIONS = {
    "rmsnorm": (fast.rmsnorm, lambda x: F.rms_norm(x, (5,), eps=1e-5), (draw(7, 5),)),
    "rmsnorm_gain": (fast.rmsnorm, lambda x, g: F.rms_norm(x, (5,), g, 1e-5), (draw(2, 3, 5), draw(5))),
    "linear": (fast.linear, F.linear, (draw(2, 3, 5), draw(4, 5))),
    "gemm_nn": (fast.gemm_nn, lambda a, b: a @ b, (draw(3, 5), draw(5, 4))),
    "gemm_nt": (fast.gemm_nt, lambda a, b: a @ b.T, (draw(3, 5), draw(4, 5))),
    "gemm_tn": (fast.gemm_tn, lambda a, b: a.T @ b, (draw(5, 3), draw(5, 4))),
    "mlp": (
        lambda x, w1, w2: fast.mlp(x, w1, w2, "gelu"),
        lambda x, w1, w2: F.linear(F.gelu(F.linear(x, w1), approximate="tanh"), w2),
        (draw(7, 5), draw(6, 5), draw(5, 6)),
    ),
    "cross_entropy": (
        lambda logits: fast.cross_entropy(logits, TOKENS),
        lambda logits: F.cross_entropy(logits, TOKENS, reduction="none"),
        (draw(7, 5),),
    ),
    "embedding": (
        lambda wte, wpe: fast.embedding(TOKENS, POSITIONS, wte, wpe),
        lambda wte, wpe: F.embedding(TOKENS, wte) + F.embedding(POSITIONS, wpe),
        (draw(5, 3), draw(4, 3)),
    ),
    "attention": (
        fast.attention,
        lambda q, k, v: F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (q, k, v)), is_causal=True
        ).transpose(1, 2),
        tuple(draw(2, 4, 2, 3) for _ in range(3)),
    ),
    "attention_packed": (
        lambda q, k, v: fast.attention(q, k, v, CU),
        lambda q, k, v: torch.cat(
            [
                FUNCTIONS["attention"][1](q[None, s], k[None, s], v[None, s])[0]
                for s in (slice(3), slice(3, 7))
            ]
        ),
        tuple(draw(7, 2, 3) for _ in range(3)),
    ),
}
EVERY_FUNCTION = pytest.mark.parametrize("name", FUNCTIONS)


def gradients(function, tensors, seed=1):
    result = function(*tensors)
    weights = torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(result.shape)))
    return result.detach(), torch.autograd.grad((result * weights.to(result.dtype)).sum(), tensors)


def assert_same(found, wanted, tolerance=1e-12):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@EVERY_FUNCTION
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_results_and_gradients_are_torchs(name, dtype):
    ours, theirs, tensors = FUNCTIONS[name]
    tensors = tuple(tensor.detach().to(dtype).requires_grad_() for tensor in tensors)
    assert_same(
        gradients(ours, tensors), gradients(theirs, tensors), 1e-12 if dtype == torch.float64 else 2e-5
    )


@EVERY_FUNCTION
def test_gradcheck(name):
    ours, _, tensors = FUNCTIONS[name]
    assert torch.autograd.gradcheck(ours, tensors)


@EVERY_FUNCTION
@pytest.mark.parametrize("module", ["numba", "numpy"])
def test_other_backends(name, module, monkeypatch):
    ours, theirs, tensors = FUNCTIONS[name]
    chosen = backends.load(module)
    monkeypatch.setattr(calls, "backend", lambda: (chosen, False))
    assert_same(gradients(ours, tensors), gradients(theirs, tensors))


@EVERY_FUNCTION
def test_compiled_without_breaking_the_graph(name):
    ours, _, tensors = FUNCTIONS[name]
    torch.compiler.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_same(gradients(compiled, tensors), gradients(ours, tensors))


@EVERY_FUNCTION
def test_under_torch_func(name):
    ours, _, tensors = FUNCTIONS[name]
    plain = tuple(tensor.detach() for tensor in tensors)
    everything = tuple(range(len(plain)))
    wanted = torch.autograd.grad(ours(*tensors).sum(), tensors)
    assert_same(torch.func.grad(lambda *t: ours(*t).sum(), everything)(*plain), wanted)
    batched = tuple(torch.stack([tensor, 2 * tensor]) for tensor in plain)
    assert_same(
        torch.func.vmap(ours)(*batched), torch.stack([ours(*(t[i] for t in batched)) for i in range(2)])
    )
    if "gemm" not in name and name != "linear":
        with pytest.raises(RuntimeError, match="kernels can be differentiated once"):
            first = torch.func.grad(lambda *t: ours(*t).pow(2).sum())
            torch.func.grad(lambda *t: first(*t).sum())(*plain)
    both = torch.func.vmap(torch.func.grad(lambda *t: ours(*t).sum(), everything))(*batched)
    assert_same(tuple(part[0] for part in both), wanted)


OPERATORS = {
    "rmsnorm_forward": (draw(7, 5), draw(5), 1e-5),
    "gemm_nn": (draw(3, 5), draw(5, 4)),
    "gemm_nt": (draw(3, 5), draw(4, 5)),
    "gemm_tn": (draw(5, 3), draw(5, 4)),
    "mlp_forward": (draw(7, 5), draw(6, 5), draw(5, 6), 2),
    "cross_entropy_forward": (draw(7, 5), TOKENS.int()),
    "embedding_forward": (TOKENS.int(), POSITIONS.int(), draw(5, 3), draw(4, 3)),
    "attention_forward": (*(draw(7, 2, 3) for _ in range(3)), CU, None, 0.5),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    torch.library.opcheck(getattr(operators, name).dispatched, OPERATORS[name])


def test_every_operator_with_a_derivative_is_checked():
    names = {name for name, value in vars(operators).items() if isinstance(value, operators.Operator)}
    assert {name for name in names if not name.endswith("_backward")} == OPERATORS.keys()


def test_one_function_many_times_in_one_graph():
    def forward(norm, x):
        return norm(norm(x) * norm(2 * x).sin()) + norm(x)

    [x] = FUNCTIONS["rmsnorm"][2]
    assert_same(*(gradients(lambda x, n=n: forward(n, x), (x,)) for n in FUNCTIONS["rmsnorm"][:2]))


def test_attention_on_views_of_one_tensor_copies_nothing(monkeypatch):
    seen = []
    qkv = draw(7, 3, 2, 3)
    run = operators.attention_forward.compute.args[0]
    function = operators.attention_forward.compute.func
    q, k, v = (part.detach() for part in qkv.unbind(1))
    function(lambda *arguments: (seen.append(arguments), run(*arguments)), q, k, v, CU, None, 0.5)
    assert [argument.tensor.data_ptr() for argument in seen[0][3:6]] == [
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
    ]
    found, wanted = fast.attention(q, k, v, CU), fast.attention(*(t.contiguous() for t in (q, k, v)), CU)
    assert torch.equal(found, wanted)


def test_what_is_refused():
    x = torch.ones(3, 4)
    with pytest.raises(TypeError, match=r"^x must be float32 or float64, not torch.float16$"):
        fast.rmsnorm(x.half())
    with pytest.raises(TypeError, match="one dtype"):
        fast.linear(x, x.double())
    with pytest.raises(TypeError, match="one dtype, torch.float32, not torch.int32"):
        fast.rmsnorm(x, torch.ones(4, dtype=torch.int32))
    with pytest.raises(TypeError, match="cross_entropy_forward takes indices of int32, not torch.float32"):
        torch.ops.microgpt_fast.cross_entropy_forward(x, torch.ones(3))
    with pytest.raises(ValueError, match=r"gemm_nt takes b of shape \(5, 4\), not \(5, 3\)"):
        fast.linear(x, torch.ones(5, 3))
    with pytest.raises(IndexError, match="row 1 has a token, position or target"):
        fast.cross_entropy(x, torch.tensor([0, 4, 1]))
    with pytest.raises(ValueError, match="one id per row"):
        fast.cross_entropy(x, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="targets must be of an integer dtype"):
        fast.cross_entropy(x, torch.ones(3))
    with pytest.raises(ValueError, match="rise from 0 to 3"):
        fast.attention(*[torch.ones(3, 1, 2)] * 3, torch.tensor([0, 9, 3], dtype=torch.int32))
    with pytest.raises(ValueError, match="activation must be one of"):
        fast.mlp(x, x, x.T, "tanh")
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        y = x.double().requires_grad_()
        [dy] = torch.autograd.grad(fast.rmsnorm(y).pow(2).sum(), y, create_graph=True)
        dy.sum().backward()


def test_a_device_other_than_the_cpu_is_refused_in_one_line():
    class Elsewhere(torch.Tensor):
        device, is_cpu = torch.device("cuda", 0), False

    x = torch.ones(2, 3).as_subclass(Elsewhere)
    with pytest.raises(
        TypeError, match=r"^x must be in the memory of the CPU, not on cuda:0: give x.cpu\(\)$"
    ):
        fast.rmsnorm(x)


def plain_attention(module, x):
    q, k, v = (
        F.linear(x, w).unflatten(-1, (module.n_head, -1)).transpose(1, 2)
        for w in (module.attn_wq, module.attn_wk, module.attn_wv)
    )
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(o.transpose(1, 2).flatten(-2), module.attn_wo)


def plain_logits(model, tokens):
    """The model from torch's own functions."""

    def norm(x):
        return F.rms_norm(x, x.shape[-1:], eps=1e-5)

    x = norm(F.embedding(tokens, model.wte) + model.wpe[: tokens.shape[1]])
    for layer in model.layers:
        x = x + plain_attention(layer.attention, norm(x))
        x = x + F.linear(F.relu(F.linear(norm(x), layer.mlp.mlp_fc1)), layer.mlp.mlp_fc2)
    return F.linear(x, model.lm_head)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
def test_a_hundred_steps_have_the_losses_of_torchs_own_modules(dtype, tolerance):
    config = microgpt_fast.GPTConfig(9, n_layer=2, n_embd=16, n_head=2, block_size=8)
    torch.manual_seed(0)
    ours = fast.GPT(config, dtype=dtype)
    theirs = fast.GPT(config, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    sides = (
        (ours, ours.loss, fast.AdamW(ours.parameters(), lr=1e-3, weight_decay=0.1)),
        (
            theirs,
            lambda x, y: F.cross_entropy(plain_logits(theirs, x).flatten(0, 1), y.flatten()),
            torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.1),
        ),
    )
    text = torch.randint(9, (100, 4, 9))
    for batch in text:
        losses = []
        for _, loss_of, optimizer in sides:
            loss = loss_of(batch[:, :-1], batch[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=tolerance)


@pytest.fixture
def model():
    config = microgpt_fast.GPTConfig(5, n_layer=2, n_embd=8, n_head=2, block_size=6, activation="silu")
    model = microgpt_fast.GPT(config, dtype="float64", numerics="fast")
    model.initialise(seeded(3, backends.load("numpy")), std=0.3)
    return model


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_models_losses_and_gradients_are_ours(model, compiled):
    copy = fast.GPT.from_model(model)
    tokens = np.array([4, 0, 1, 2, 4, 4, 3, 4], np.int32)
    starts, lengths = np.array([0, 5]), np.array([4, 2], np.int32)
    losses, grads = ops.gpt_backward(model.parameters, tokens, starts, lengths, model.config)
    rows = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths)])
    loss_of = copy.loss
    if compiled:
        torch.compiler.reset()
        loss_of = torch.compile(copy.loss, fullgraph=True, backend="aot_eager")
    packed = torch.from_numpy(tokens)[rows], torch.from_numpy(tokens)[rows + 1], torch.tensor([0, 4, 6])
    loss = loss_of(*packed)
    assert loss.item() == pytest.approx(losses.mean(), rel=1e-12)
    loss.backward()
    found = torch.cat([parameter.grad.flatten() for parameter in copy.original_names().values()])
    np.testing.assert_allclose(found, grads, rtol=1e-10, atol=1e-13)
    with torch.no_grad():
        logits = copy(torch.tensor([[4, 0, 1], [2, 2, 2]]))
    for row, ids in zip(logits, ([4, 0, 1], [2, 2, 2])):
        np.testing.assert_allclose(row, model.logits(ids), rtol=1e-12)


def test_a_model_to_and_from_a_file(model, tmp_path):
    microgpt_fast.save(model, tmp_path / "ours")
    copy = fast.GPT.from_file(tmp_path / "ours")
    copy.to_file(tmp_path / "theirs")
    again = microgpt_fast.load(tmp_path / "theirs")
    assert again.config == model.config and np.array_equal(again.parameters, model.parameters)
    with torch.no_grad():
        copy.wte[0] = 7
    assert (copy.to_model().tensors["wte"][0] == 7).all() and not (model.tensors["wte"][0] == 7).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    torch.manual_seed(0)
    module = fast.MLP(4, 6, activation, dtype=torch.float64)
    want, _ = ops.mlp_forward(
        torch.ones(2, 4, dtype=torch.float64),
        module.mlp_fc1.detach(),
        module.mlp_fc2.detach(),
        activation=activation,
    )
    assert_same(module(torch.ones(2, 4, dtype=torch.float64)).detach(), want)


def test_modules_describe_themselves():
    modules = (
        fast.RMSNorm(4, elementwise_affine=True),
        fast.CausalSelfAttention(4, 2),
        fast.MLP(4),
        fast.CrossEntropy("sum"),
    )
    assert [str(module) for module in modules] == [
        "RMSNorm(4, eps=1e-05, elementwise_affine=True)",
        "CausalSelfAttention(4, n_head=2)",
        "MLP(4, width=16, activation='relu')",
        "CrossEntropy(reduction='sum')",
    ]


def test_the_optimizers_state_is_saved_and_goes_on():
    def start():
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(5))
        return p, fast.AdamW([p], lr=0.1)

    def move(p, optimizer):
        p.grad = p.detach() ** 2
        optimizer.step()

    (p, through), (q, first) = start(), start()
    for _ in range(4):
        move(p, through)
    move(q, first), move(q, first)
    _, second = start()
    second = fast.AdamW([q], lr=0.1)
    second.load_state_dict(first.state_dict())
    move(q, second), move(q, second)
    assert torch.equal(p, q)
    with pytest.raises(ValueError, match="lr must not be negative"):
        fast.AdamW([p], lr=-1)


def test_without_torch_the_message_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None\nimport microgpt_fast.torch"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "microgpt_fast.torch needs PyTorch: pip install 'microgpt-fast[torch]'" in run.stderr
