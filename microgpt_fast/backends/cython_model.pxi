# What the C core knows of a model: its table of parameters, and the path that serves it.

cdef mgf_config c_config(config):
    return mgf_config(config.n_layer, config.n_embd, config.n_head, config.block_size, config.vocab_size,
                      _ACTIVATIONS.index(config.activation))


def path_of(config, str numerics="fast", dtype=None):
    """The path that computes a model: "narrow", "general" or "composed"; with exact numerics "exact", or None; in bfloat16
    "mixed", or None.

    Each path says by the configuration alone whether it serves (csrc/serves.h); what one does not serve falls to the next.
    """
    cdef mgf_config c = c_config(config)
    if dtype is not None and dtype == "bfloat16":
        return "mixed" if mixed_serves(&c) and numerics == "fast" and not config.variations else None
    if config.variations:
        return None if numerics == "exact" else "composed"
    if numerics == "exact":
        return "exact" if exact_serves(&c) else None
    return "narrow" if micro_serves(&c) else "general" if gpt_serves(&c) else "composed"


def parameter_table(config):
    """The table of csrc/parameters.h: a `parameters.Parameter` for each parameter of a model."""
    cdef mgf_config c = c_config(config)
    cdef parameters_table t = parameters_of(&c)
    table = [c_parameter(&t.outside[i], &t, "", 0) for i in range(OUTSIDE_LAYERS)]
    for layer in range(config.n_layer):
        table += [c_parameter(&t.layer[i], &t, f"layer{layer}.", layer * t.layer_size) for i in range(OF_A_LAYER)]
    return table


cdef c_parameter(const mgf_parameter *p, const parameters_table *t, str block, Py_ssize_t base):
    return _Parameter(
        name=block + p.name.decode(),
        shape=(p.columns,) if p.properties & IS_VECTOR else (p.rows, p.columns),
        role="lookup" if p.role == LOOKUP else "product",
        starts_at_zero=bool(p.properties & STARTS_AT_ZERO),
        decays=not p.properties & NO_DECAY,
        tied_to=t.outside[p.tied_to - 1].name.decode() if p.tied_to else None,
        offset=p.at if p.tied_to else base + p.at,
    )
