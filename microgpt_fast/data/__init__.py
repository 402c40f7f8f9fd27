"""Text to token ids: files and documents, tokenizers, the cache of tokens, batches."""

from .corpus import Corpus
from .load import BUILTIN, Source, load_corpus
from .text import DataError
from .tokenizer import ByteTokenizer, Tokenizer

__all__ = ["BUILTIN", "ByteTokenizer", "Corpus", "DataError", "Source", "Tokenizer", "load_corpus"]
