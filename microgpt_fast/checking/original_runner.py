"""Runs microgpt.py, from standard input, up to a training step; a program of its own, started by original.py.

Three calls are added to the syntax tree: before the training loop, after its backward pass, and at the end of
its body. They write float64 numbers to standard output, as `original.steps` describes; the last one ends the
run. What the program prints is dropped.
"""

import ast
import os
import sys
import threading
from array import array


class Finished(Exception):
    """The last step that was asked for is done."""


def instrumented(text):
    """The syntax tree of the program, with calls of the hooks."""
    tree = ast.parse(text)
    [place] = [i for i, node in enumerate(tree.body) if ast.unparse(node).startswith("for step in ")]
    loop = tree.body[place].body
    [backward] = [i for i, node in enumerate(loop) if ast.unparse(node) == "loss.backward()"]
    loop.append(call("_after_step"))
    loop.insert(backward + 1, call("_after_backward"))
    tree.body.insert(place, call("_before_training"))
    return ast.fix_missing_locations(tree)


def call(name):
    return ast.Expr(ast.Call(ast.Name(name, ast.Load()), [], []))


def run(text, count, out):
    """Run the program for `count` steps, and write the numbers to the binary file `out`."""
    gradients = []

    def write(*lists):
        for numbers in lists:
            array("d", numbers).tofile(out)
        out.flush()

    def parameters():
        return [p.data for p in namespace["params"]]

    def after_backward():
        gradients[:] = [p.grad for p in namespace["params"]]

    def after_step():
        n = namespace
        write([n["loss"].data], gradients, n["m"], n["v"], parameters())
        if n["step"] + 1 == count:
            raise Finished

    namespace = {
        "__name__": "__main__",
        "_before_training": lambda: write(parameters()),
        "_after_backward": after_backward,
        "_after_step": after_step,
    }
    try:
        exec(compile(instrumented(text), "microgpt.py", "exec"), namespace)
    except Finished:
        pass


if __name__ == "__main__":
    with open(os.dup(sys.stdout.fileno()), "wb") as results:
        sys.stdout = open(os.devnull, "w")
        sys.setrecursionlimit(10**9)  # its depth-first search recurses once for each operation of a path
        threading.stack_size(1 << 29)
        arguments = (sys.stdin.read(), int(sys.argv[1]), results)
        thread = threading.Thread(target=run, args=arguments)
        thread.start()
        thread.join()
