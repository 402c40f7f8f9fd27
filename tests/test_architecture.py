"""Imports of the package run down only, from the command line to the kernels, and never in a circle."""

import ast
from pathlib import Path

import microgpt_fast

PACKAGE = Path(microgpt_fast.__file__).parent
# From the top floor down: a module imports from its own floor or those below, never from above.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("benchmark", "lab"),
    ("checking", "export", "torch", "jax"),
    ("training", "sampling"),
    ("model",),
    ("data", "ops", "numba_kernels"),
    ("backends", "workload"),
    ("reference", "reference_residual", "scalar"),
    (
        "native",
        "config",
        "aliases",
        "model_config",
        "checks",
        "locks",
        "presets",
        "parameters",
        "messages",
        "random_stream",
    ),
)
ANYWHERE = {""}  # the package itself, of which modules ask the version


def modules():
    """Every module of the package by its dotted name without the package's; a package has its own name."""
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "csrc":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(name, path):
    """The modules that a module imports from the package, in functions too; not those for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    unseen = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from filter(None, (_absolute(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module)
            if node.level:
                parts = package[: len(package) - node.level + 1] + (node.module or "").split(".")
                base = ".".join(part for part in parts if part)
            if base is None:
                continue
            for alias in node.names:
                longer = f"{base}.{alias.name}".strip(".")
                yield longer if longer in MODULES else base


def _absolute(name):
    """The name within the package, or None for other packages."""
    first, _, rest = (name or "").partition(".")
    return rest if first == microgpt_fast.__name__ else None


def floor(name):
    top = name.split(".")[0]
    [level] = [level for level, tops in enumerate(FLOORS) if top in tops]
    return level


def upward(graph):
    """The imports that run up."""
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if name not in ANYWHERE and other not in ANYWHERE and floor(name) > floor(other)
    ]


def circle(graph):
    """Modules that import each other in a circle, or None."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return None
        path.append(name)
        found = next(filter(None, map(visit, sorted(graph.get(name, ())))), None)
        path.pop()
        done.add(name)
        return found

    return next(filter(None, map(visit, sorted(graph))), None)


def graph_of(modules):
    return {
        name: {other for other in imports(name, path) if other not in ANYWHERE and other != name}
        for name, path in modules.items()
    }


def test_every_module_stands_on_a_floor():
    for name in MODULES:
        if name not in ANYWHERE:
            floor(name)


def test_imports_run_down():
    assert upward(graph_of(MODULES)) == []


def test_no_imports_run_in_a_circle():
    assert circle(graph_of(MODULES)) is None


def test_an_import_that_runs_up_is_found():
    assert upward({"config": {"cli.output"}, "cli": {"config"}}) == ["config imports cli.output"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c"]


def test_absolute_imports_are_seen(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "import microgpt_fast.cli\nfrom microgpt_fast.cli.output import Stdout\nimport numpy.linalg\n"
    )
    assert set(imports("config", path)) == {"cli", "cli.output"}


def test_no_folder_hides_a_public_function():
    assert not {name.split(".")[0] for name in MODULES} & {
        "train",
        "score",
        "samples",
        "generate",
        "load",
        "save",
    }
