"""Tokenizers: loading, saving and training them, on top of the ``tokenizers`` library."""

from __future__ import annotations

from conf.plugins import lazy
from processors.tokenizers.tokenizer import Tokenizer
from processors.tokenizers.train import train_bpe, train_tokenizer

_PUBLIC = {
    "AlbertTokenizer": "processors.tokenizers.albert",
    "AlbertTokenizerFast": "processors.tokenizers.albert",
    "AutoTokenizer": "processors.tokenizers.auto",
    "BertTokenizer": "processors.tokenizers.bert",
    "BertTokenizerFast": "processors.tokenizers.bert",
    "BertTokenizerLegacy": "processors.tokenizers.bert_legacy",
    "LlamaTokenizer": "processors.tokenizers.llama",
    "LlamaTokenizerFast": "processors.tokenizers.llama",
    "XLMRobertaTokenizer": "processors.tokenizers.xlm_roberta",
    "XLMRobertaTokenizerFast": "processors.tokenizers.xlm_roberta",
}
# The names that the reference gives to a tokenizer of no family.
PreTrainedTokenizerFast = TokenizersBackend = Tokenizer

__getattr__ = lazy(__name__, _PUBLIC)
__all__ = [
    "PreTrainedTokenizerFast",
    "Tokenizer",
    "TokenizersBackend",
    "train_bpe",
    "train_tokenizer",
    *_PUBLIC,
]
