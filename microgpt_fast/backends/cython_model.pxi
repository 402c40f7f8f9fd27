# What the C core knows of a model: its table of parameters, and the path that serves it.

cdef mgf_config c_config(config):
    cdef mgf_config c
    c.n_layer, c.n_embd, c.n_head = config.n_layer, config.n_embd, config.n_head
    c.block_size, c.vocab_size = config.block_size, config.vocab_size
    c.activation, c.position = _ACTIVATIONS.index(config.activation), _POSITIONS.index(config.position)
    c.tie_embeddings, c.norm_gain, c.final_norm = config.tie_embeddings, config.norm_gain, config.final_norm
    c.qk_norm, c.qk_norm_scale = config.qk_norm, config.qk_norm_scale
    c.gated, c.mlp_hidden = config.mlp == "gated", config.mlp_hidden or 0
    c.logit_softcap, c.value_embedding = config.logit_softcap, config.value_embedding
    c.residual, c.residual_scalars = _RESIDUALS.index(config.residual), config.residual_scalars
    c.layers_per_block = config.layers_per_block
    return c


def path_of(config, str numerics="fast", dtype=None):
    """The path that computes a model: "narrow", "general" or "composed"; with exact numerics "exact", or None; in bfloat16
    "mixed", or None.

    Each path says by the configuration alone whether it serves (csrc/serves.h); what one does not serve falls to the next.
    """
    cdef mgf_config c = c_config(config)
    if dtype is not None and dtype == "bfloat16":
        return "mixed" if mixed_serves(&c) and numerics == "fast" else None
    if numerics == "exact":
        return "exact" if exact_serves(&c) else None
    return "narrow" if micro_serves(&c) else "general" if gpt_serves(&c) else "composed"


def parameter_table(config):
    """The table of csrc/parameters.h: a `parameters.Parameter` for each parameter of a model, without its `start`."""
    cdef mgf_config c = c_config(config)
    cdef parameters_table t = parameters_of(&c)
    table = [c_parameter(&t.outside[i], &t, "", 0) for i in range(OUTSIDE_LAYERS) if t.outside[i].rows]
    for layer in range(config.n_layer):
        base = layer * t.layer_size
        table += [c_parameter(&t.layer[i], &t, f"layer{layer}.", base) for i in range(OF_A_LAYER) if t.layer[i].rows]
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
