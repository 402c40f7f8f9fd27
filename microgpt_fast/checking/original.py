"""The user's own copy of microgpt.py: recognised by the structure of its whole program, and run apart.

A file may come from anybody, so none of its text is executed. `read` takes the constants out of its syntax
tree; the SHA-256 of what remains must be that of a known program. `steps` runs the tree that was so recognised,
written out anew, in a process of its own (`original_runner.py`) with hooks that report each training step.
"""

import ast
import copy
import hashlib
import io
import math
import os
import shutil
import subprocess
import sys
import tempfile
import tokenize
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import UsageError
from ..data.text import decoded

RUNNER = Path(__file__).with_name("original_runner.py")
CONSTANTS = {
    "n_layer": int, "n_embd": int, "block_size": int, "n_head": int, "learning_rate": float, "beta1": float,
    "beta2": float, "eps_adam": float, "num_steps": int, "temperature": float,
}  # fmt: skip
# The limits of what is read.
MOST_BYTES = 1 << 15
MOST_BRACKETS = 12  # within each other; the original has 4
MOST_INTEGER = 10**18
MOST_PARAMETERS = 2 * 10**6  # a training step of the scalar program needs gigabytes before that
# SHA-256 of the known programs, each with its forms of `bos`, `zero_init` and `activation`.
PROGRAMS = {
    ("last", False, "relu"): "e7e35e853c32ed5673583056b5db4131709c47d32c615b116a795bc1efd79d5e",
    ("last", False, "relu2"): "ce16206c956ff03b8c21e63255f2eb05e24f25b03075f91572ea12466e5bfbe8",
    ("last", True, "relu"): "d6659b6ec878cddb02a103259f9df907e56ebf1f1cd1a407e1311c49c542ca11",
    ("last", True, "relu2"): "c35f1f503aef559993c684b44766f7ce6798312ef80fdff8594ce5e3b976e83c",
    ("first", False, "relu"): "2026ddf44d18d8e1de73f08e793585292a31ad47beee4a2bc983615ed2ca8808",
    ("first", False, "relu2"): "b2c4420cbc117cc14f1eab2b6b350d5f9939c9edcd6950039a17201fe8b94c70",
    ("first", True, "relu"): "27c708f0d6de97106f0895d2b9485ee2c1787b1de6eb114170eda22055496554",
    ("first", True, "relu2"): "1c5a84f9184e99d38043aff6a13a5e8caee9d983f55e43bf12e2823dcff3d7ba",
}  # fmt: skip
# Statements of the program in order: what each is, and how it is known, after "|" in its other form. These
# few digits only serve to say where another program departs.
STATEMENTS = """
import 4d3f2496  import aa81814b  import cc5fab67  random.seed() d0b7687a  if 342b09ef  import 1708b5ed
names_url= 815a509c  urllib.request.urlretrieve() c24ce1a5  docs= f93a7fa8  random.shuffle() 89fcd6dc
print() 694ae084  uchars= a7423810|b2260de5  BOS= ea6d91d2|1b3c1986  vocab_size= 0ff319a5|f276b675
print() 1dae2078  class_Value 7b51775c  __slots__= e9ac6685  def___init__ 181293aa  self.data= 89b92f69
self.grad= aaa72eb4  self._children= b340841d  self._local_grads= c49e4776  def___add__ 12df80d7
other= e18a7365  return 439214c0  def___mul__ 3ed511b2  other= e18a7365  return b0d7d76e
def___pow__ 3d704fc9  return 381fdf7f  def_log 167803ec  return 7f4d8ba1  def_exp 3e4b67ed  return 51607b6c
def_relu 319bd432  return 25407447  def___neg__ fe6d5f5c  return 357050c2  def___radd__ df13a1e3
return 9b0ffa8f  def___sub__ dff85060  return 4edd8125  def___rsub__ 4cc757fb  return b53d40af
def___rmul__ 7a3faca2  return ced0f537  def___truediv__ da2af6dd  return 021227cd  def___rtruediv__ 70fab4eb
return e5f38f14  def_backward fd6d3486  topo= 8ab634b6  visited= a4ac4a9a  def_build_topo f6c20db1
if 258ab7ef  visited.add() 8bc944d4  for 9738dbc4  build_topo() 39ba9d98  topo.append() 8653d1ca
build_topo() 35dfe2a6  self.grad= 481c805d  for 41347029  for b3fe3151  child.grad= ac289a8e
n_layer= 786f75c9  n_embd= 1664a68e  block_size= 512caba9  n_head= 0cfcb2da  head_dim= 917028e5
matrix= dfc914f4  state_dict= ebc60d48  for d54bb184  state_dict[]= aed6d8ee  state_dict[]= 1d6728a4
state_dict[]= 2130e3fa  state_dict[]= e1b573c3|d6f2595b  state_dict[]= 65ff7726
state_dict[]= eb7c541b|629c905c  params= 4935344c  print() a7fafed5  def_linear b8569679  return ff4fa73b
def_softmax 9b5e353a  max_val= dfe3faa4  exps= db1d3f41  total= ea438ff2  return 095c0014
def_rmsnorm 1239ef49  ms= 4ca54bc4  scale= 0f9a667d  return edcb9271  def_gpt 886479fb  tok_emb= 55e99ebb
pos_emb= c2d80e06  x= ccb6a266  x= a9854104  for 77b3d2e3  x_residual= 0c941881  x= 637c7145  q= 6578efd5
k= e6972bee  v= b1a99c55  keys[li].append() 385cd974  values[li].append() d359a2fd  x_attn= 4cb09ca2
for 8fde658b  hs= b63f286c  q_h= 456aa591  k_h= 4ea3ca93  v_h= 642067ec  attn_logits= 518447c8
attn_weights= d5852f2f  head_out= 33fbae60  x_attn.extend() 620dc368  x= db017894  x= 3e5baf6a
x_residual= 0c941881  x= 637c7145  x= 153c6278  x= 2e624df0|2fa9fb5e  x= a4ca2101  x= 3e5baf6a
logits= fce7b497  return bca20aa1  learning_rate,beta1,beta2,eps_adam= 35b20f4b  m= c059fcdf  v= 6ed38470
num_steps= 2f34dc88  for 3d2bd9d9  doc= fc32ccf4  tokens= ddaa1fbb  n= 493db710  keys,values= 4a173040
losses= 41aa72f3  for a2333746  token_id,target_id= 61629b1d  logits= 1b559d49  probs= 63e1f587
loss_t= 84fed7b1  losses.append() 512ed632  loss= ec9ced48  loss.backward() 63b0bd7f  lr_t= 380c6fe6
for ebc03cc2  m[]= 1f2d6d21  v[]= f7274ea9  m_hat= 3cb1def0  v_hat= a064b9ff  p.data= 56e15e64
p.grad= 0e786768  print() d03c1434  temperature= ff181806  print() c8e65feb  for 77cd24b6
keys,values= 4a173040  token_id= fb40a305  sample= 60c1cda4  for 8c78f975  logits= 1b559d49  probs= 9b656b66
token_id= 3830df0d  if 06a7086b  break 4c7d0f41  sample.append() 201668b6  print() 2e6274ac
"""
# constant that the other form of a statement decides -> its value in either form
FORMS = {
    "uchars=": ("bos", "last", "first"),
    "BOS=": ("bos", "last", "first"),
    "vocab_size=": ("bos", "last", "first"),
    "state_dict[]=": ("zero_init", False, True),
    "x=": ("activation", "relu", "relu2"),
}


class Program(NamedTuple):
    """A recognised copy of microgpt.py.

    Attributes
    ----------
    path : str
    source : str
        The program, written out from its syntax tree.
    constants : dict
        Fields of GPTConfig and TrainConfig, as the file states them.
    """

    path: str
    source: str
    constants: dict


def read(path):
    """Recognise a copy of microgpt.py by its text.

    Comments, layout and constants may differ from the published program, nothing else.

    Parameters
    ----------
    path : str

    Returns
    -------
    Program

    Raises
    ------
    UsageError
        for another program: the line where it departs, and what was expected there.
    OSError
        if the file cannot be read.
    """
    text = _text(path)
    try:
        _check_brackets(path, text)
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
        return _recognise(path, text, tree)
    except (SyntaxError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        line, message = getattr(error, "lineno", None) or 1, getattr(error, "msg", error)
        raise _refusal(path, line, f"not Python {sys.version_info.major}: {message}") from None
    except (RecursionError, MemoryError):
        raise _refusal(path, 1, "it is nested too deeply") from None


def _text(path):
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UsageError(
            f"{path}: not a microgpt.py that is known here: it has more than {MOST_BYTES:,} bytes"
        )
    text = decoded(path, data).removeprefix("\ufeff")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise _refusal(path, line, "not Python: it holds a NUL character")
    return text


def _check_brackets(path, text):
    """Refuse brackets nested so deeply that a parser might need more than linear time."""
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
            if depth > MOST_BRACKETS:
                raise _refusal(path, token.start[0], f"more than {MOST_BRACKETS} brackets within each other")
    except tokenize.TokenError:  # the parser will say the same, and where
        pass


def _recognise(path, text, tree):
    """The Program of a syntax tree."""
    constants = {"batch_size": 1}
    whole = hashlib.sha256()
    expected = _known_statements()
    lines = text.split("\n")
    for statement, depth in _statements(tree.body, constants):
        kind, fingerprints = next(expected, ("", []))
        structure = f"{depth} {_canonical(statement)}".encode()
        whole.update(structure + b"\n")
        found = hashlib.sha256(structure).hexdigest()[:8]
        if found not in fingerprints:
            source = lines[statement.lineno - 1].strip()
            reason = f"expected {_describe(kind)}, found: {source[:60]}{'...' * (len(source) > 60)}"
            raise _refusal(path, statement.lineno, reason)
        if len(fingerprints) == 2:
            name, *values = FORMS[kind]
            value = values[fingerprints.index(found)]
            if constants.setdefault(name, value) != value:
                wanted = f"{_describe(kind)} with {name} = {constants[name]!r} as in the lines before"
                raise _refusal(path, statement.lineno, f"expected {wanted}, found {value!r}")
    for kind, _ in expected:
        raise _refusal(path, len(lines), f"expected {_describe(kind)}, found the end of the file")
    form = tuple(constants[name] for name in ("bos", "zero_init", "activation"))
    if whole.hexdigest() != PROGRAMS[form]:
        raise _refusal(path, 1, "its statements look like the original's, but are others")
    _check_numbers(path, constants)
    return Program(os.fspath(path), _source(tree), constants)


def _check_numbers(path, constants):
    """Refuse constants that would take memory or time without end."""
    for name, value in constants.items():
        if isinstance(value, int) and abs(value) >= MOST_INTEGER:
            raise UsageError(f"{path}: {name} must be below 10**18")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{path}: {name} must be a finite number, not {value}")
    C = max(constants["n_embd"], 0)
    size = 12 * max(constants["n_layer"], 0) * C * C + max(constants["block_size"], 0) * C
    if size > MOST_PARAMETERS:
        names = ", ".join(f"{name} = {constants[name]}" for name in ("n_layer", "n_embd", "block_size"))
        raise UsageError(f"{path}: {names}: more than the {MOST_PARAMETERS:,} parameters that verify runs")


def _source(tree):
    """The text of a recognised program, without comments and docstrings."""
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [statement for statement in node.body if not _is_docstring(statement)]
    return ast.unparse(tree)


def _refusal(path, line, reason):
    return UsageError(f"{path}, line {line}: not a microgpt.py that is known here: {reason}")


def _known_statements():
    words = iter(STATEMENTS.split())
    for kind in words:
        yield kind, next(words).split("|")


def _describe(kind):
    if not kind:
        return "the end of the file"
    if kind.endswith("="):
        kind = f"{kind[:-1]} = ..."
    elif kind.startswith(("def_", "class_")):
        kind = kind.replace("_", " ", 1)
    return f"the original's `{kind}`"


def _statements(body, constants, depth=0):
    """(statement without its body, depth) in the order of the text; fills `constants`, skips docstrings."""
    for statement in body:
        if _is_docstring(statement):
            continue
        head = copy.copy(statement)
        inner = getattr(statement, "body", [])
        if inner:
            head.body = []
        if depth == 0:
            head = _without_constants(head, constants)
        yield head, depth
        yield from _statements(inner, constants, depth + 1)


def _is_docstring(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


class Number(ast.expr):
    """Stands for a constant that was taken out; no text parses to it."""


def _without_constants(statement, constants):
    """A top-level statement with its constants taken out, into `constants`, if it is one that states any."""
    statement = copy.deepcopy(statement)

    def take(name, kind, owner, index):
        node = owner[index]
        number = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
        if isinstance(number, ast.Constant) and type(number.value) in (int, kind):
            constants[name] = number.value if number is node else -number.value
            owner[index] = Number()

    match statement:
        case ast.Assign(targets=[ast.Name(name)]) if name in CONSTANTS:
            value = [statement.value]
            take(name, CONSTANTS[name], value, 0)
            [statement.value] = value
        case ast.Assign(targets=[ast.Tuple(names)], value=ast.Tuple(values)) if len(names) == len(values):
            for index, target in enumerate(names):
                if isinstance(target, ast.Name) and target.id in CONSTANTS:
                    take(target.id, CONSTANTS[target.id], values, index)
        case ast.Assign(targets=[ast.Name("matrix")], value=ast.Lambda(args=arguments)):
            if len(arguments.defaults) == 1:
                take("init_std", float, arguments.defaults, 0)
        case ast.Expr(ast.Call(ast.Attribute(ast.Name("random"), "seed"), args=[_] as owner)):
            take("seed", int, owner, 0)
        case ast.For(target=ast.Name("sample_idx"), iter=ast.Call(ast.Name("range"), args=[_] as owner)):
            take("num_samples", int, owner, 0)
    return statement


def _canonical(node):
    """A syntax tree as text, the same in all versions of Python and another for another tree."""
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={_canonical(value)}"
            for name, value in ast.iter_fields(node)
            if name not in ("ctx", "kind", "type_comment") and value not in (None, [])
        ]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


def steps(program, data, count, num_params):
    """Run the program up to its training step `count`.

    Parameters
    ----------
    program : Program
    data : path
        Becomes its input.txt.
    count : int
    num_params : int

    Yields
    ------
    float64 array
        First the initial parameters [P]; then, for each step, [1 + 4 P]: the loss, the gradient, Adam's two
        moments and the parameters after the step.

    Raises
    ------
    UsageError
        if the program fails.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as complaints:
        shutil.copyfile(data, Path(folder, "input.txt"))
        with subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", RUNNER, str(count)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        ) as process:
            try:
                process.stdin.write(program.source.encode())
                process.stdin.close()
                for size in [num_params] + [1 + 4 * num_params] * count:
                    record = np.frombuffer(process.stdout.read(8 * size))
                    if len(record) < size:
                        break
                    yield record
                else:
                    return
            finally:
                process.kill()
        complaints.seek(0)
        reason = complaints.read().decode(errors="replace").strip().splitlines() or ["it ended too early"]
        raise UsageError(f"{program.path} failed: {reason[-1]}")
