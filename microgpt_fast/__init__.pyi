"""What type checkers see of the names that __init__.py imports when they are used."""

from typing import Any

from . import ops as ops
from .backends import kernel_addresses as kernel_addresses
from .config import GPTConfig as GPTConfig
from .config import TrainConfig as TrainConfig
from .config import UsageError as UsageError
from .data import Corpus as Corpus
from .data import Tokenizer as Tokenizer
from .data import load_corpus as load_corpus
from .lab.compare import compare as compare
from .lab.many import train_many as train_many
from .model import GPT as GPT
from .native import get_include as get_include
from .native import get_sources as get_sources
from .presets import PRESETS as PRESETS
from .sampling.sample import generate as generate
from .sampling.sample import samples as samples
from .sampling.scoring import score as score
from .training import Evaluation as Evaluation
from .training import Steps as Steps
from .training import Trainer as Trainer
from .training import train as train
from .training.checkpoint import load as load
from .training.checkpoint import save as save
from .training.progress import Progress as Progress
from .training.resume import resume_training as resume_training
from .training.resume import save_training as save_training
from .training.runs import Run as Run

__version__: str
c_api: Any
