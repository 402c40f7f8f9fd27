"""The commands, one module each: `add_arguments(parser)`, and `run(options, stdout)`, which returns the exit code."""

# the name of the command and of its module: what the command does
COMMANDS = {
    "train": "train a model and print samples from it",
    "sample": "print samples from a saved model",
    "score": "measure how well a saved model predicts a text",
    "export": "write a saved model as a program of its own: a web page, a C, Python or ONNX file",
    "page": "write a web page that trains the default model and shows how it works",
    "plot": "draw the loss curves of runs",
    "data": "download a known text: names or tinyshakespeare",
    "compare": "train with several options and many seeds, and tell which are better, with error bars",
    "audit": "compare the losses that another program prints with microgpt's, and name the defect",
    "verify": "compare training with the scalar reference, number by number",
    "bench": "measure how fast this machine trains, compared with its peak and with other programs",
    "info": "show the version, the backends, and the features of this machine that matter",
    "presets": "show what the presets set",
}
