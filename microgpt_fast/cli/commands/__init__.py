"""The commands, a module each: `add_arguments(parser)`, and `run(options, stdout)`: the exit code."""

# name, which is the module's, and what the command does
COMMANDS = {
    "train": "train a model and print samples from it",
    "sample": "print samples from a saved model",
    "score": "tell how well a saved model predicts a text",
    "plot": "draw the loss curves of runs",
    "data": "fetch a known text: names or tinyshakespeare",
    "verify": "compare training, number by number, with the scalar reference",
    "bench": "measure how fast this machine trains, against what it could do and others",
    "info": "show the version, the backends, and what this machine has",
}
