"""From raw examples to model inputs: tokenizers, chat templates, a format for each shape of text row."""

from __future__ import annotations

from conf.plugins import lazy

# What a data source's ``format:`` may name: its options, and what is called with them as
# ``thing(options, tokenizer=..., max_length=...)``, which has ``encode``, ``encode_batch`` and ``report``.
FORMATS = {
    "chat": ("processors.options:ChatFormat", "processors.chat:ChatDocuments"),
    "instruction": ("processors.options:InstructionFormat", "processors.instruction:InstructionDocuments"),
    "text": ("processors.options:TextFormat", "processors.text:TextDocuments"),
}

_PUBLIC = {
    "ChatFormat": "processors.options",
    "InstructionFormat": "processors.options",
    "TextFormat": "processors.options",
    "TrainOptions": "processors.options",
    "ChatDocuments": "processors.chat",
    "InstructionDocuments": "processors.instruction",
    "TextDocuments": "processors.text",
    "ChatTemplate": "processors.rendering",
    "Document": "processors.documents",
    "FormatReport": "processors.documents",
    "RowError": "processors.documents",
    "Tokenizer": "processors.tokenizers",
    "AddedToken": "processors.tokenizers.special_tokens",
    "BatchEncoding": "processors.tokenizers.batch_encoding",
    "CharSpan": "processors.tokenizers.batch_encoding",
    "TokenSpan": "processors.tokenizers.batch_encoding",
    "PaddingStrategy": "processors.tokenizers.lengths",
    "TruncationStrategy": "processors.tokenizers.lengths",
    "get_json_schema": "processors.tokenizers.tool_schemas",
    "AutoTokenizer": "processors.tokenizers",
    "BertTokenizer": "processors.tokenizers",
    "BertTokenizerFast": "processors.tokenizers",
    "BertTokenizerLegacy": "processors.tokenizers",
    "AlbertTokenizer": "processors.tokenizers",
    "AlbertTokenizerFast": "processors.tokenizers",
    "LlamaTokenizer": "processors.tokenizers",
    "LlamaTokenizerFast": "processors.tokenizers",
    "XLMRobertaTokenizer": "processors.tokenizers",
    "XLMRobertaTokenizerFast": "processors.tokenizers",
    "PreTrainedTokenizerFast": "processors.tokenizers",
    "TokenizersBackend": "processors.tokenizers",
    "train_bpe": "processors.tokenizers",
    "train_tokenizer": "processors.tokenizers",
    "check_conversation": "processors.review",
    "show": "processors.review",
    "stop_ids": "processors.rendering",
}
__getattr__ = lazy(__name__, _PUBLIC)
__all__ = ["FORMATS", *_PUBLIC]
