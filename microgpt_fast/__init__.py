"""Karpathy's microgpt with the same output, in milliseconds: train and sample a small GPT on a CPU.

The names below are imported when they are first used, so that the command line starts at once.
"""

__version__ = "0.1.0"

_HOMES = {
    "GPTConfig": "config",
    "TrainConfig": "config",
    "PRESETS": "presets",
    "UsageError": "config",
    "Tokenizer": "data",
    "Corpus": "data",
    "load_corpus": "data",
    "GPT": "model",
    "Trainer": "training",
    "train": "training",
    "Steps": "training",
    "Evaluation": "training",
    "save_training": "training.resume",
    "resume_training": "training.resume",
    "Run": "training.runs",
    "generate": "sampling.sample",
    "samples": "sampling.sample",
    "score": "sampling.scoring",
    "Progress": "training.progress",
    "compare": "lab.compare",
    "train_many": "lab.many",
    "save": "training.checkpoint",
    "load": "training.checkpoint",
    "kernel_addresses": "backends",
    "get_include": "native",
    "get_sources": "native",
}
__all__ = [*_HOMES, "ops"]  # noqa: PLE0604


def __getattr__(name):
    from importlib import import_module

    if name == "ops":
        return import_module(f"{__name__}.ops")
    if name == "c_api":  # the capsule of microgpt_fast.h
        from .backends import BackendError, load

        try:
            return load("cython").c_api
        except BackendError as error:
            raise ImportError(str(error)) from error
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOMES, "ops"})
