"""The user's own copy of microgpt.py: recognised by the structure of its program, and run apart.

Its text is never executed here. `read` compares its syntax tree, statement by statement and without the
constants, with fingerprints of the programs that are known; only then does `steps` run it, in a process of
its own (`original_runner.py`) and unchanged but for hooks that report each training step.
"""

import ast
import copy
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import UsageError
from ..data.text import read_text

RUNNER = Path(__file__).with_name("original_runner.py")
CONSTANTS = {
    "n_layer", "n_embd", "block_size", "n_head", "learning_rate", "beta1", "beta2", "eps_adam", "num_steps",
    "temperature",
}  # fmt: skip
# Statements of the program in order: what each is, and its fingerprint; after "|" that of the other form.
STATEMENTS = """
import 4d3f2496  import aa81814b  import cc5fab67  random.seed() 92507def  if 342b09ef  import 1708b5ed
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
n_layer= d5c7723d  n_embd= ea229d10  block_size= 87d1c89b  n_head= deff9eae  head_dim= 917028e5
matrix= 9470fe9f  state_dict= ebc60d48  for d54bb184  state_dict[]= aed6d8ee  state_dict[]= 1d6728a4
state_dict[]= 2130e3fa  state_dict[]= e1b573c3|d6f2595b  state_dict[]= 65ff7726
state_dict[]= eb7c541b|629c905c  params= 4935344c  print() a7fafed5  def_linear b8569679  return ff4fa73b
def_softmax 9b5e353a  max_val= dfe3faa4  exps= db1d3f41  total= ea438ff2  return 095c0014
def_rmsnorm 1239ef49  ms= 4ca54bc4  scale= 0f9a667d  return edcb9271  def_gpt 886479fb  tok_emb= 55e99ebb
pos_emb= c2d80e06  x= ccb6a266  x= a9854104  for 77b3d2e3  x_residual= 0c941881  x= 637c7145  q= 6578efd5
k= e6972bee  v= b1a99c55  keys[li].append() 385cd974  values[li].append() d359a2fd  x_attn= 4cb09ca2
for 8fde658b  hs= b63f286c  q_h= 456aa591  k_h= 4ea3ca93  v_h= 642067ec  attn_logits= 518447c8
attn_weights= d5852f2f  head_out= 33fbae60  x_attn.extend() 620dc368  x= db017894  x= 3e5baf6a
x_residual= 0c941881  x= 637c7145  x= 153c6278  x= 2e624df0|2fa9fb5e  x= a4ca2101  x= 3e5baf6a
logits= fce7b497  return bca20aa1  learning_rate,beta1,beta2,eps_adam= 45cb095f  m= c059fcdf  v= 6ed38470
num_steps= d4b4b12c  for 3d2bd9d9  doc= fc32ccf4  tokens= ddaa1fbb  n= 493db710  keys,values= 4a173040
losses= 41aa72f3  for a2333746  token_id,target_id= 61629b1d  logits= 1b559d49  probs= 63e1f587
loss_t= 84fed7b1  losses.append() 512ed632  loss= ec9ced48  loss.backward() 63b0bd7f  lr_t= 380c6fe6
for ebc03cc2  m[]= 1f2d6d21  v[]= f7274ea9  m_hat= 3cb1def0  v_hat= a064b9ff  p.data= 56e15e64
p.grad= 0e786768  print() d03c1434  temperature= 243a422d  print() c8e65feb  for 6ff1939b
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
    path, text : str
    constants : dict
        Fields of GPTConfig and TrainConfig, as the text states them.
    """

    path: str
    text: str
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
    text = read_text(path).removeprefix("\ufeff")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        raise _refusal(path, line, f"not Python {sys.version_info.major}: {error}") from None
    constants = {"batch_size": 1}
    expected = _known_statements()
    lines = text.split("\n")
    for statement, depth in _statements(tree.body, constants):
        kind, fingerprints = next(expected, ("", []))
        found = fingerprint(statement, depth)
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
    return Program(os.fspath(path), text, constants)


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
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        head = copy.copy(statement)
        inner = getattr(statement, "body", [])
        if inner:
            head.body = []
        if depth == 0:
            head = _without_constants(head, constants)
        yield head, depth
        yield from _statements(inner, constants, depth + 1)


def _without_constants(statement, constants):
    """A top-level statement with its constants taken out, into `constants`, if it is one that states any."""
    statement = copy.deepcopy(statement)

    def take(name, owner, index):
        node = owner[index]
        number = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
        if isinstance(number, ast.Constant) and type(number.value) in (int, float):
            constants[name] = number.value if number is node else -number.value
            owner[index] = ast.Constant("a number")

    match statement:
        case ast.Assign(targets=[ast.Name(name)]) if name in CONSTANTS:
            value = [statement.value]
            take(name, value, 0)
            [statement.value] = value
        case ast.Assign(targets=[ast.Tuple(names)], value=ast.Tuple(values)) if len(names) == len(values):
            for index, target in enumerate(names):
                if isinstance(target, ast.Name) and target.id in CONSTANTS:
                    take(target.id, values, index)
        case ast.Assign(targets=[ast.Name("matrix")], value=ast.Lambda(args=arguments)):
            if len(arguments.defaults) == 1:
                take("init_std", arguments.defaults, 0)
        case ast.Expr(ast.Call(ast.Attribute(ast.Name("random"), "seed"), args=[_] as owner)):
            take("seed", owner, 0)
        case ast.For(target=ast.Name("sample_idx"), iter=ast.Call(ast.Name("range"), args=[_] as owner)):
            take("num_samples", owner, 0)
    return statement


def fingerprint(statement, depth):
    """8 hexadecimal digits that name a statement at its depth; equal in all versions of Python."""
    return hashlib.sha256(f"{depth} {_canonical(statement)}".encode()).hexdigest()[:8]


def _canonical(node):
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
                process.stdin.write(program.text.encode())
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
