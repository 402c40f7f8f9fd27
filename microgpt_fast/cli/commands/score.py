"""`microgpt-fast score`: how well a saved model predicts a text."""

import json
from math import isinf
from pathlib import Path

from ...config import UsageError
from ...messages import PROGRAM, tell
from .common import add_constants, add_raw, add_unknown, users_file
from .sample import model_file


def add_arguments(parser):
    """The options of `score`."""
    parser.add_argument(
        "file", metavar="FILE", nargs="+",
        help="the model first, unless --model names it; then UTF-8 text: files, folders, or - for stdin",
    )  # fmt: skip
    parser.add_argument("--model", metavar="FILE", help="a saved model, or a run's folder")
    parser.add_argument(
        "--data-mode",
        choices=("lines", "stream"),
        help="default: as in the model's training",
    )
    parser.add_argument(
        "--per-document", action="store_true", help="also print the surprise at each document"
    )
    parser.add_argument("--per-token", action="store_true", help="also print the surprise at each token")
    add_constants(parser, ("dtype",), "as in the model's training")
    add_unknown(parser)
    add_raw(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options, stdout):
    """Print the figures."""
    from ...sampling.scoring import score
    from ...training.checkpoint import load

    files = options.file
    if options.model is None:
        options.model, *files = files
    if not files:
        raise UsageError(f"name a text, too: {PROGRAM} score MODEL FILE (FILE: - for stdin)")
    with users_file("read", options.model):
        model = load(model_file(options.model), dtype=options.dtype)
    with users_file("read", " ".join(files)):
        result = score(model, [Path(part) for part in files], options.data_mode, options.unknown or "error")
    if result.corpus.note:
        tell(result.corpus.note)
    summary = result.summary()
    documents = [*_documents(model.tokenizer, result)] if options.per_document or options.per_token else []
    if options.json:
        if options.per_document:
            summary["per_document"] = [
                {"text": text, "nats": float(nats.sum()), "tokens": len(nats)} for text, _, nats in documents
            ]
        if options.per_token:
            summary["per_token"] = [
                [[token, float(surprise)] for token, surprise in zip(tokens, nats)]
                for _, tokens, nats in documents
            ]
        if isinf(summary["perplexity"]):  # which JSON cannot say
            summary["perplexity"] = None
        stdout.write(json.dumps(summary, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
        return 0
    for name, value in summary.items():
        stdout.write(
            f"{name.replace('_', ' ')}: {value:.4f}\n" if isinstance(value, float) else f"{name}: {value}\n"
        )
    for text, tokens, nats in documents:
        if options.per_document:
            shown = json.dumps(text, ensure_ascii=False)
            stdout.write(f"{nats.sum():10.4f} nats {nats.mean():8.4f} per token  {shown}\n")
        if options.per_token:
            for token, surprise in zip(tokens, nats):
                stdout.write(
                    f"{surprise:10.4f}  {json.dumps(token, ensure_ascii=False) if token else 'end'}\n"
                )
    return 0


def _documents(tokenizer, result):
    """(text, texts of the tokens, the last one that of the end: "", surprises) of each document."""
    offsets = result.corpus.offsets
    for d in range(len(result.corpus)):
        ids = result.corpus.tokens[offsets[d] + 1 : offsets[d + 1]].tolist()
        nats = result.surprises[result.documents[d] : result.documents[d + 1]]
        if tokenizer.kind == "char":
            tokens = [tokenizer.decode([token]) for token in ids]
        else:
            first = 0 if tokenizer.bos_place == "last" else 1
            tokens = ["" if token == tokenizer.bos else f"0x{token - first:02x}" for token in ids]
        yield tokenizer.decode(ids), tokens, nats
