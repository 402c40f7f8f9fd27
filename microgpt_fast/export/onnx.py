"""A model as an ONNX graph: token ids [N] in, logits [N, V] out, for one document of 1 to block_size tokens."""

import numpy as np

from ..config import UsageError
from . import served
from .expected import float32_of

OPSET = 20


def onnx_program(model):
    """The bytes of an ONNX file.

    Parameters
    ----------
    model : GPT

    Returns
    -------
    bytes

    Raises
    ------
    UsageError
        for a model that this graph would not compute, or where onnx is not installed.
    """
    served.check(model, "an ONNX file")
    try:
        from onnx import TensorProto, checker, helper
    except ImportError:
        raise UsageError("an ONNX file needs onnx: pip install onnx") from None
    graph = _Graph(float32_of(model))
    logits = graph.model()
    nodes = [
        helper.make_node(kind, inputs, [out], **attributes) for kind, inputs, out, attributes in graph.nodes
    ]
    constants = [
        helper.make_tensor(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.tobytes(), raw=True
        )
        for name, array in graph.constants.items()
    ]
    result = helper.make_model(
        helper.make_graph(
            [*nodes, helper.make_node("Identity", [logits], ["logits"])],
            "microgpt",
            [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", model.config.vocab_size])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="microgpt_fast",
    )
    checker.check_model(result, full_check=True)
    return result.SerializeToString()


class _Graph:
    """Nodes and constants as they are made; a method returns the name of what it computes."""

    def __init__(self, model):
        self.config, self.tensors = model.config, model.tensors
        self.nodes, self.constants = [], {}

    def node(self, kind, *inputs, **attributes):
        out = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(
            (kind, [one if isinstance(one, str) else self.constant(one) for one in inputs], out, attributes)
        )
        return out

    def constant(self, value):
        array = np.asarray(value)
        array = array.astype("<i8" if array.dtype.kind == "i" else "<f4")
        name = f"{array.dtype.kind}{array.tolist()}"
        self.constants.setdefault(name, array)
        return name

    def weight(self, name):
        """x w^T takes the transpose of w [out, in]; tables of rows are taken as they are."""
        if name not in self.constants:
            tensor = self.tensors[name].astype("<f4")
            self.constants[name] = tensor if name in ("wte", "wpe") else np.ascontiguousarray(tensor.T)
        return name

    def model(self):
        """logits = x lm_head^T of the last residual stream"""
        count = self.node("Shape", "tokens")
        positions = self.node("Range", 0, self.node("Squeeze", count, [0]), 1)
        x = self.node("Add", self.rows("wte", "tokens"), self.rows("wpe", positions))
        x = self.rmsnorm(x)
        for layer in range(self.config.n_layer):
            x = self.node("Add", self.attention(self.rmsnorm(x), f"layer{layer}.", count), x)
            hidden = self.linear(self.rmsnorm(x), f"layer{layer}.mlp_fc1")
            x = self.node("Add", self.linear(self.activation(hidden), f"layer{layer}.mlp_fc2"), x)
        return self.linear(x, "lm_head")

    def rows(self, name, ids):
        return self.node("Gather", self.weight(name), ids)

    def linear(self, x, name):
        return self.node("MatMul", x, self.weight(name))

    def rmsnorm(self, x):
        """x / sqrt(mean(x^2) + 1e-5)"""
        mean = self.node("ReduceMean", self.node("Mul", x, x), [1], keepdims=1)
        return self.node("Div", x, self.node("Sqrt", self.node("Add", mean, 1e-5)))

    def attention(self, x, layer, count):
        """softmax of q k^T / sqrt(D) over what came before, times v, for all heads; then attn_wo"""
        H, D = self.config.n_head, self.config.head_dim
        q, k, v = (self.heads(self.linear(x, f"{layer}attn_w{name}"), H, D) for name in "qkv")
        scores = self.node("MatMul", q, self.node("Transpose", k, perm=[0, 2, 1]))
        scores = self.node("Mul", scores, D**-0.5)
        square = self.node("Concat", count, count, axis=0)
        later = self.node(
            "Trilu", self.node("Expand", -1e30, square), 1, upper=1
        )  # what comes later counts nothing
        weights = self.node("Softmax", self.node("Add", scores, later), axis=-1)
        out = self.node("Transpose", self.node("MatMul", weights, v), perm=[1, 0, 2])
        return self.linear(self.node("Reshape", out, [-1, H * D]), f"{layer}attn_wo")

    def heads(self, x, H, D):
        """[N, C] to [H, N, D]"""
        return self.node("Transpose", self.node("Reshape", x, [-1, H, D]), perm=[1, 0, 2])

    def activation(self, h):
        name = self.config.activation
        if name == "gelu":
            return self.node("Gelu", h, approximate="tanh")
        if name == "silu":
            return self.node("Mul", h, self.node("Sigmoid", h))
        h = self.node("Relu", h)
        return self.node("Mul", h, h) if name == "relu2" else h
