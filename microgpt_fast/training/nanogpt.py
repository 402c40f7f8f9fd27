"""nanoGPT's command lines and its config/*.py, read as data and never executed."""

import ast

from ..config import UsageError, shown

# what changes nothing here
IGNORED = (
    "device", "compile", "wandb_log", "wandb_project", "wandb_run_name", "log_interval", "always_save_checkpoint",
    "lr_decay_iters", "num_workers",
)  # fmt: skip
NAMES = (*IGNORED, "dropout", "bias", "decay_lr", "eval_iters", "eval_only", "init_from")
OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def translate(options, tokens_a_batch):
    """nanoGPT's options that have another name or meaning here.

    Parameters
    ----------
    options : dict
        By `NAMES`; values as Python has them, or as strings.
    tokens_a_batch : int
        batch_size times block_size, which eval_iters counts in.

    Returns
    -------
    ours : dict
        What they are here; "resume" is True where a run is to be continued.
    ignored : list of str
        What makes no difference, as name=value.

    Raises
    ------
    UsageError
        that lists all that cannot be had.
    """
    ours, ignored, refused = {}, [], []
    for name, given in options.items():
        value = literal(given)
        text = f"{name}={given}"
        if name == "dropout" and value != 0:
            refused.append(f"{text} (there is no dropout)")
        elif name == "bias" and value:
            refused.append(f"{text} (there are no biases)")
        elif name == "eval_only" and value:
            refused.append(f"{text} (use the command score)")
        elif name == "decay_lr":
            ours["schedule"] = "cosine" if value else "constant"
        elif name == "eval_iters":
            if type(value) is not int or value < 1:
                refused.append(f"{text} (it must be a whole number of at least 1)")
            else:
                ours["eval_tokens"] = value * tokens_a_batch
        elif name == "init_from" and value == "resume":
            ours["resume"] = True
        elif name == "init_from" and value != "scratch":
            refused.append(f"{text} (models of other programs cannot be read)")
        else:
            ignored.append(text)
    if refused:
        raise UsageError(f"what nanoGPT has and this program has not: {'; '.join(refused)}")
    return ours, ignored


def literal(value):
    """A value as Python reads it; a word is a string."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def read_python(text, path):
    """The assignments in a nanoGPT config: a dictionary of name to literal.

    Nothing is executed. Products and sums of numbers are computed; imports are passed over, and so is any value given
    to what is ignored here.

    Raises
    ------
    UsageError
        for anything else, with its line.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{path}: not Python that can be read: {error}") from None
    options = {}
    for part in body:
        is_text = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
        if is_text or isinstance(part, (ast.Import, ast.ImportFrom)):
            continue
        names = [target.id for target in getattr(part, "targets", ()) if isinstance(target, ast.Name)]
        if not isinstance(part, ast.Assign) or len(names) != len(part.targets):
            raise UsageError(
                f"{path}, line {part.lineno}: only assignments of numbers, strings, True and False are read, and "
                f"nothing is executed, not {shown(ast.unparse(part))}"
            )
        try:
            value = _value(part.value)
        except (ValueError, ArithmeticError):
            if set(names) <= set(IGNORED):
                value = ast.unparse(part.value)
            else:
                raise UsageError(
                    f"{path}, line {part.lineno}: {', '.join(names)} must be a number, a string, True or False: "
                    f"nothing is executed, not {shown(ast.unparse(part.value))}"
                ) from None
        options.update(dict.fromkeys(names, value))
    return options


def _value(node):
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        sides = _value(node.left), _value(node.right)
        if all(type(side) in (int, float) for side in sides):
            return OPERATORS[type(node.op)](*sides)
    return ast.literal_eval(node)


def split(arguments):
    """Command-line arguments without nanoGPT's own options, and these: (list, dict of name to text)."""
    rest, options = [], {}
    arguments = list(arguments)
    while arguments:
        argument = arguments.pop(0)
        name, equals, value = argument.partition("=")
        name = name[2:].replace("-", "_") if name.startswith("--") else ""
        if name not in NAMES:
            rest.append(argument)
            continue
        if not equals:
            value = arguments.pop(0) if arguments and not arguments[0].startswith("--") else "True"
        options[name] = value
    return rest, options
