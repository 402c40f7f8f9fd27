"""What a run of the tests covers: backends and instruction sets, those that are missing, and from which sources."""

import filecmp
from pathlib import Path

import microgpt_fast
from microgpt_fast import backends
from microgpt_fast.native import build

ROOT = Path(__file__).parent.parent
PACKAGE = Path(microgpt_fast.__file__).parent
COMPILED = "cython"
REBUILD = "python setup.py build_ext --inplace"


def variants():
    """(name, module, instruction set or None) of each usable backend, for every instruction set it has on this CPU."""
    for name in ("numpy", "numba", COMPILED):
        try:
            module = backends.load(name)
        except backends.BackendError:
            continue
        for isa in module.isas() if name == COMPILED else [None]:
            yield name, module, isa


def on_this_processor(features):
    """The instruction sets for which a processor has the features."""
    return [isa for isa, needed in build.FEATURES.items() if set(needed) <= set(features)]


def missing():
    """What could be tested here and is not there: names of backends and instruction sets, with the reason."""
    reasons = {name: why for name, why in backends.describe()["backends"].items() if why != "ok"}
    if COMPILED not in reasons:
        compiled = backends.load(COMPILED)
        for isa in on_this_processor(compiled.cpu_features()):
            if isa not in compiled.isas():
                reasons[isa] = "this processor has it, the compiled backend was built without it"
    return reasons


def summary():
    """What is tested and what is not, in one line."""
    found = list(variants())
    names = [name for name, _, isa in found if not isa]
    isas = [isa for *_, isa in found if isa]
    if isas:
        names.append(f"{COMPILED} ({', '.join(isas)})")
    line = f"microgpt_fast {microgpt_fast.__version__} in {PACKAGE}: {', '.join(names)}"
    absent = list(missing())
    if isas:
        features = backends.load(COMPILED).cpu_features()
        absent += [
            f"{isa} (not on this processor)"
            for isa in build.FEATURES
            if isa not in on_this_processor(features)
        ]
    return f"{line}; not tested: {', '.join(absent)}" if absent else line


def refusal(allowed):
    """Why the run is refused, with what to do; None if all that is missing is allowed to be."""
    known = [*backends.BACKENDS, *build.FEATURES]
    if unknown := sorted(set(allowed) - set(known)):
        return f"--allow-missing={','.join(unknown)}: choose from {', '.join(known)}"
    reasons = {name: why for name, why in missing().items() if name not in allowed}
    if not reasons:
        return None
    lines = [f"  {name}: {why}" for name, why in reasons.items()]
    remedy = f"Install or build it ({REBUILD}), or test the rest: --allow-missing={','.join(reasons)}"
    return "\n".join(["part of what this machine can test is missing:", *lines, remedy])


def _several(paths):
    """The first of some paths, and how many more there are."""
    first, more = paths[0].relative_to(ROOT), len(paths) - 1
    return f"{first} and {more} more" if more else str(first)


def _installed(source):
    """Where an installed package has a source of this checkout."""
    path = source.relative_to(ROOT)
    return PACKAGE / path if path.parts[0] == "csrc" else PACKAGE.parent / path


def outdated():
    """Why what is tested is not what the sources here say, in one line; None if it is."""
    here = ROOT / "microgpt_fast"
    c_sources = [*(ROOT / "csrc").rglob("*.[ch]"), *here.glob("include/*.h")]
    if PACKAGE != here:
        sources = sorted([*c_sources, *here.rglob("*.py")])
        pairs = ((source, _installed(source)) for source in sources)
        changed = [
            ours
            for ours, theirs in pairs
            if not (theirs.exists() and filecmp.cmp(ours, theirs, shallow=False))
        ]
        return (
            f"the installed package was not made from {_several(changed)}: install it again"
            if changed
            else None
        )
    built = [path.stat().st_mtime for path in here.glob("backends/cython_backend.*.so")]
    sources = sorted([*c_sources, *here.glob("backends/*.pyx"), *here.glob("backends/*.pxi")])
    newer = [source for source in sources if built and source.stat().st_mtime > max(built)]
    return f"the compiled backend is older than {_several(newer)}: {REBUILD}" if newer else None
