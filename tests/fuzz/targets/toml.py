"""Files of options that hold anything: the options that are allowed, or one error that names the file."""

from types import SimpleNamespace

from microgpt_fast.config import MODEL_OPTIONS, TRAIN_OPTIONS, UsageError, resolve
from microgpt_fast.training.settings import ABSENT, ALIASES, RUN_OPTIONS, read_toml, to_toml

from .. import scratch_folder
from ..hostile import TEXTS, check_message

FOLDER = scratch_folder()
NAMES = [*MODEL_OPTIONS, *TRAIN_OPTIONS, *RUN_OPTIONS, *ALIASES, *ABSENT]
ODD = [
    "x",
    '""',
    '"n layer"',
    "a.b.c",
    "[table]",
    "[[tables]]",
    "n_layer.x",
    '"\\u001b[2J"',
    "a" * 3000,
    ".".join("a" * 900),
]
VALUES = [
    *TEXTS, "inf", "nan", "-inf", "0x" + "f" * 5000, "0b" + "1" * 20000, "1_000", "0.1", "4", "8",
    "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "{}", "{a = 1}", "{a = " * 400 + "1" + "}" * 400,
    "[1, 'a']", "['a', 'b']", "'a'", "'relu'", "'cosine'", "'60s'", "'1e999h'", "'m'", "'\0'", "'\x1b'",
    '"""\n\na"""', "'''a'''", '"\\u0000"', '"\\U0001F600"',
]  # fmt: skip


def make(random):
    """The text of a file."""
    lines = []
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        name = random.choice(NAMES) if random.random() < 0.9 else random.choice(ODD)
        lines.append(f"{name} = {random.choice(VALUES)}" if name[0] != "[" else name)
    text = random.choice(["\n", "\n", "\n", "\r\n", "\r", ""]).join(lines)
    if random.random() < 0.1:
        place = random.randrange(len(text) + 1)
        text = (
            text[:place]
            + random.choice(["\0", "\ufeff", "\ud800", "#", "=", "[", '"""', "\\"])
            + text[place:]
        )
    return SimpleNamespace(text=text)


def run(case):
    """Read it, and use the options; what is allowed is written and read again."""
    path = FOLDER / "options.toml"
    path.write_bytes(case.text.encode("utf-8", "surrogatepass"))
    try:
        options = read_toml(path)
        constants = {name: value for name, value in options.items() if name not in RUN_OPTIONS}
        resolve(options.get("preset", "microgpt"), **constants)
    except UsageError as error:
        check_message(error)
        return
    path.write_text(to_toml(options), encoding="utf-8")
    assert read_toml(path) == options
