"""Values that no program of good will writes, for JSON and TOML: of other types, sizes, depths."""

import copy
import json

# What may stand in place of any value, as JSON text
TEXTS = [
    "null", "true", "false", "0", "-1", "1", "2", "3", "1.5", "-0.0", "1e999", "-1e999", "NaN", "Infinity", "-Infinity",
    "2147483648", "4294967296", "9007199254740992", "9223372036854775808", "1e308", "5e-324", "9" * 400, "9" * 5000,
    "[]", "{}", '""', '"x"', '"NaN"', '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"' + "a" * 3000 + '"', "[[[]]]",
    "[1, 2, 3]", '{"chars": "ab", "bos": "last"}', '{"bytes": true, "bos": "last"}', "[" * 900 + "]" * 900,
    "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000,
]  # fmt: skip
BROKEN = ["", " ", "{", "[", "nul", "{]", '{"a"}', '"', "\ufeff{}", "{} {}", "'a'", "//", "\0"]


def json_of(random, value, changes):
    """A value as JSON text, with some changes at random places of the tree."""
    root, texts = [copy.deepcopy(value)], {}
    for _ in range(changes):
        holder, key = random.choice([*_places(root)])
        kind = random.random()
        if kind < 0.15 and isinstance(holder, dict):
            del holder[key]
        elif kind < 0.25 and isinstance(holder, dict):
            holder[random.choice(["x", "", "step", "n_layer", "bytes"])] = holder[key]
        elif kind < 0.4 and type(holder[key]) is int:
            holder[key] += random.choice([-1, 1, 2, 1 << 20])
        else:
            mark = f"@{len(texts)}@"
            texts[json.dumps(mark)] = random.choice(TEXTS)
            holder[key] = mark
    result = json.dumps(root[0])
    for mark, text in texts.items():
        result = result.replace(mark, text)
    if random.random() < 0.03:
        return random.choice(BROKEN)
    return result


def _places(holder):
    """Each (list or dictionary, key) of a tree; of a long list only some."""
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    for key in keys if len(keys) < 50 else [0, 1, len(keys) - 1]:
        yield holder, key
        if isinstance(holder[key], (dict, list)):
            yield from _places(holder[key])


def check_message(error):
    """An error's message is short, and names what was wrong."""
    text = str(error)
    assert 0 < len(text) < 1000, text[:2000]
