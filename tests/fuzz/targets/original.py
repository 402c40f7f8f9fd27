"""Files for `verify --original`: refused in a line, or the original's program with other constants."""

import ast
import os
import re
from pathlib import Path

from microgpt_fast.checking import original
from microgpt_fast.config import UsageError

from .. import scratch_folder

COPIES = [
    path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[4] / "shared" / "original").glob("*.py"))
]
FILE = scratch_folder() / "copy.py"
WORDS = [
    'not ', '-', '~', '(', ')', '[', ']', '{', '}', 'lambda: ', 'await ', 'yield ', 'a', '.a', '()', '[0]',
    '=', ':=', '**', ', ', ':', ';', '\n', '\n ', '\n\t', '    ', 'if a: ', 'else: ', 'for a in ',
    'def f(a): ', 'class A: ', 'try: ', 'match a:', 'case 1: ', 'import os', 'with a: ', 'print(1)', '1',
    '0x', "9" * 50, '1e999', '1j', '0.5', 'True', 'None', '...', "'a'", "f'{a}'", "f'{", "'''", '"', '\\',
    '#', '\x00', '\x0c', '\x1b[2J', '\u202e', '\ufeff', '\xe9', '\u2028', '@', '$', "b'a'", '*a',
    'import os; os._exit(3)', 'n_layer = ', 'random.seed(', "__import__('os')._exit(3)",
]  # fmt: skip
NUMBERS = [
    "0",
    "-1",
    "1",
    "7",
    "True",
    "None",
    "'1'",
    "1.0",
    ".5",
    "1e999",
    "-1e-999",
    "1j",
    "0x" + "f" * 500,
    "10**9",
    "9" * 4301,
    "9" * 19,
]


def make(random):
    """The bytes of a file."""
    if COPIES and random.random() < 0.4:
        text = random.choice(COPIES)
        for _ in range(random.choice([0, 1, 1, 2, 4])):
            text = _changed(random, text)
    else:
        word = random.choice(WORDS)
        text = "".join(random.choices(WORDS, k=random.randrange(30)))
        text += word * random.choice([0, 1, 10, 90, 800, 3000])
        text += "".join(random.choices(WORDS, k=random.randrange(10)))
    return text.encode(random.choice(["utf-8"] * 20 + ["utf-8-sig", "utf-16", "latin-1"]), "replace")


def _changed(random, text):
    """A copy with a change: a number, a word more, a character less, two lines in one another's place."""
    choice = random.randrange(5)
    lines = text.split("\n")
    place = random.randrange(len(text) + 1)
    if choice == 0:
        digits = [i for i, char in enumerate(text) if char.isdigit()]
        place = random.choice(digits)
        return text[:place] + random.choice(NUMBERS) + text[place + 1 :]
    if choice == 1:
        return text[:place] + random.choice(WORDS) + text[place:]
    if choice == 2:
        return text[:place] + text[place + 1 :]
    if choice == 3:
        return text.replace(random.choice(text.split()), random.choice(text.split()), 1)
    i, j = random.randrange(len(lines)), random.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return "\n".join(lines)


def run(content):
    """Read the file."""
    FILE.write_bytes(content)
    try:
        program = original.read(os.fspath(FILE))
    except UsageError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    _check(program.source)


def _check(source):
    """That each line is a revision's, but for numbers, and that lines that belong together are of the same one."""
    found, *known = map(_without_numbers, [source, *map(_source, COPIES)])
    sides = {name: set() for name in GROUPS.values()}
    assert len(found) == len(known[0]) == len(known[1])
    for line, first, second in zip(found, *known):
        assert line in (first, second)
        if first != second:
            [group] = {group for word, group in GROUPS.items() if word in first}
            sides[group].add(line == first)
    assert all(len(side) == 1 for side in sides.values())


GROUPS = {
    "uchars = ": "bos",
    "BOS = ": "bos",
    "vocab_size = ": "bos",
    "attn_wo": "zero",
    "mlp_fc2": "zero",
    ".relu()": "relu",
}
NUMBER = r"-?[0-9.]+(?:e[+-]?[0-9]+)?"
PLACES = [
    rf"^(n_layer|n_embd|block_size|n_head|num_steps|temperature) = {NUMBER}$",
    rf"^(learning_rate, beta1, beta2, eps_adam) = \({NUMBER}, {NUMBER}, {NUMBER}, {NUMBER}\)$",
    rf"(?<=nin, std)()={NUMBER}(?=:)",
    rf"^(random.seed)\({NUMBER}\)$",
    rf"^(for sample_idx in range)\({NUMBER}\)(?=:$)",
]


def _without_numbers(source):
    for place in PLACES:
        source = re.sub(place, r"\1", source, flags=re.MULTILINE)
    return source.split("\n")


def _source(text):
    tree = ast.parse(text)
    del tree.body[0]  # its docstring
    return ast.unparse(tree)
