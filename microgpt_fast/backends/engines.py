"""The engine for a configuration: a backend's own, or one composed of its kernels."""

from .composed import ComposedEngine


def engine_of(backend, config, dtype, numerics="fast", threads=1):
    """A backend's engine where one of its paths serves the configuration, else the model composed of its kernels.

    Parameters
    ----------
    backend : module
        As `backends.load` returns it.
    config, dtype, numerics, threads
        See `composed.ComposedEngine`.

    Returns
    -------
    engine
        Its `path` says what computes: "exact", "mixed", "narrow", "general" or "composed".
    """
    if backend.path_of(config, numerics, dtype) == "composed":
        return ComposedEngine(backend, config, dtype, numerics, threads)
    return backend.Engine(config, dtype, numerics, threads)
