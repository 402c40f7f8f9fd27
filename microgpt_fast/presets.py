"""Sets of constants that go well together, by name."""

from typing import Any

# fields of GPTConfig and of TrainConfig that differ from their defaults, which are the original's final
# revision
_NANOGPT_MODEL = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64}
_NANOGPT_TRAINING = {
    "dtype": "float32",
    "data_mode": "auto",
    "val_fraction": 0.1,
    "schedule": "cosine",
    "warmup_steps": 100,
    "beta1": 0.9,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "temperature": 0.8,
    "num_samples": 3,
}

# what a time budget allows, but no longer than is good for the text; the best model is kept
_LAPTOP = {**_NANOGPT_TRAINING, "keep_best": True, "patience": 6}

PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "microgpt": ({}, {}),
    "first-revision": (
        {"block_size": 8, "activation": "relu2"},
        {
            "num_steps": 500,
            "beta1": 0.9,
            "beta2": 0.95,
            "init_std": 0.02,
            "zero_init": True,
            "temperature": 0.6,
            "bos": "first",
        },
    ),
    # other models, trained as the original is; docs/models.md
    "attention-residuals": ({"residual": "attention"}, {}),
    "attention-residuals-block": ({"residual": "attention_block"}, {}),
    "hyper-connections": ({"residual": "hyper"}, {}),
    "tied-alibi": (
        {"tie_embeddings": True, "position": "alibi", "qk_norm": True, "activation": "relu2"},
        {},
    ),
    "llama-like": (
        {"position": "rope", "norm_gain": True, "final_norm": True, "mlp": "gated", "activation": "silu"},
        {},
    ),
    # nanoGPT's recipe for Shakespeare's characters on a CPU, with a higher learning rate
    "nanogpt-cpu": (
        _NANOGPT_MODEL,
        {
            **_NANOGPT_TRAINING,
            "num_steps": 2000,
            "batch_size": 12,
            "learning_rate": 3e-3,
            "min_learning_rate": 1e-4,
            "eval_interval": 500,
        },
    ),
    # for short lines, like names; narrow enough for the narrow path
    "laptop-10s": (
        {"n_layer": 4, "n_embd": 32},
        {
            **_LAPTOP,
            "time_budget": 10,
            "batch_size": 4,
            "learning_rate": 1.5e-3,
            "min_learning_rate": 0.0,
            "weight_decay": 0.05,
            "grad_clip": 0.0,
            "num_samples": 20,
        },
    ),
    "laptop-1min": (
        _NANOGPT_MODEL,
        {
            **_LAPTOP,
            "time_budget": 60,
            "batch_size": 12,
            "learning_rate": 4e-3,
            "min_learning_rate": 1e-4,
        },
    ),
    "laptop-10min": (
        {**_NANOGPT_MODEL, "n_embd": 192, "n_head": 6, "block_size": 128},
        {
            **_LAPTOP,
            "time_budget": 600,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "min_learning_rate": 1e-4,
        },
    ),
}
