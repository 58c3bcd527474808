"""Tokenizers: loading, saving and training them, on top of the ``tokenizers`` library."""

from processors.tokenizers.tokenizer import Tokenizer
from processors.tokenizers.train import train_bpe

__all__ = ["Tokenizer", "train_bpe"]
