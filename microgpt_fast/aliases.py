"""Other names of options: those of nanoGPT, which are taken, and those that people try, which are corrected."""

# nanoGPT's name -> ours
ALIASES = {
    "max_iters": "num_steps",
    "min_lr": "min_learning_rate",
    "warmup_iters": "warmup_steps",
    "out_dir": "out",
    "dataset": "data",
}

# a name that people try -> the option that they mean
MEANT = {
    "lr": "learning_rate", "rate": "learning_rate", "iters": "num_steps", "steps": "num_steps",
    "max_steps": "num_steps", "num_iters": "num_steps", "epochs": "num_steps", "bs": "batch_size",
    "batch": "batch_size", "layers": "n_layer", "num_layers": "n_layer", "n_layers": "n_layer", "depth": "n_layer",
    "heads": "n_head", "num_heads": "n_head", "n_heads": "n_head", "width": "n_embd", "d_model": "n_embd",
    "hidden_size": "n_embd", "dim": "n_embd", "embd": "n_embd", "context": "block_size", "context_length": "block_size",
    "ctx": "block_size", "n_ctx": "block_size", "seq_len": "block_size", "max_length": "max_new_tokens",
    "length": "max_new_tokens", "max_tokens": "max_new_tokens", "wd": "weight_decay", "clip": "grad_clip",
    "warmup": "warmup_steps", "accumulation": "gradient_accumulation_steps", "temp": "temperature",
    "time": "time_budget", "budget": "time_budget", "duration": "time_budget",
    "input": "data", "file": "data", "text": "data",
    "output": "out", "folder": "out", "early_stopping": "patience", "act": "activation",
    "precision": "dtype", "samples": "num_samples", "n_samples": "num_samples", "checkpoint": "model",
    "val_split": "val_fraction", "valid": "val_fraction",
}  # fmt: skip
