"""Models as programs of their own: a web page, a C file, a Python file, an ONNX file."""
