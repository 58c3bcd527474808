"""BERT's tokenizer in pure Python, for models that were trained with it. Source: Devlin et al. 2019."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from processors.tokenizers import wordpiece_legacy
from processors.tokenizers.batch_encoding import BatchEncoding
from processors.tokenizers.calling import CallOptions, Text, as_batch
from processors.tokenizers.families import BERT_LEGACY
from processors.tokenizers.family_tokenizer import FamilyTokenizer, setting
from processors.tokenizers.kinds.pieces import read_lines
from processors.tokenizers.special_tokens import Token


class BertTokenizerLegacy(FamilyTokenizer):
    """``BertTokenizer`` cut word by word in Python; slower, and without offsets in the text.

    ``vocab_file`` is the path of a ``vocab.txt``. ``do_lower_case`` is on here. Without ``do_basic_tokenize``
    a text is cut at white space alone, and nothing is normalised. ``never_split`` are words that stay whole.
    ``tokenize_chinese_chars`` makes every CJK character a word (better off for Japanese).
    ``clean_up_tokenization_spaces``: decoding takes out spaces before punctuation. ``others`` are arguments
    of every tokenizer. Calls give what they give elsewhere, but not where in a text a token is, and windows
    of a text that is too long are not rows: what was cut off is ``overflowing_tokens``.
    """

    is_fast = False
    tokenizer_class = "BertTokenizerLegacy"
    family = BERT_LEGACY
    own_settings = frozenset(BERT_LEGACY.settings)
    model_input_names = BERT_LEGACY.input_names
    clean_up_tokenization_spaces = True

    do_lower_case = setting("do_lower_case", "Whether texts are lower-cased.")
    do_basic_tokenize = setting("do_basic_tokenize", "Whether texts are normalised and cut at punctuation.")
    never_split = setting("never_split", "Words that stay whole, or None.")
    tokenize_chinese_chars = setting("tokenize_chinese_chars", "Whether every CJK character is a word.")
    strip_accents = setting("strip_accents", "Whether accents are taken off; None goes with lower-casing.")

    def __init__(
        self,
        vocab_file: str | Path,
        do_lower_case: bool = True,
        do_basic_tokenize: bool = True,
        never_split: Iterable[str] | None = None,
        unk_token: Token = "[UNK]",
        sep_token: Token = "[SEP]",
        pad_token: Token = "[PAD]",
        cls_token: Token = "[CLS]",
        mask_token: Token = "[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        clean_up_tokenization_spaces: bool = True,
        **others: Any,
    ):
        given = {
            "do_lower_case": do_lower_case,
            "do_basic_tokenize": do_basic_tokenize,
            "never_split": None if never_split is None else list(never_split),
            "tokenize_chinese_chars": tokenize_chinese_chars,
            "strip_accents": strip_accents,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        super().__init__(read_lines(Path(vocab_file)), given, others)

    def files(self) -> dict[str, bytes]:
        """The files of every tokenizer, and the ``vocab.txt`` that this class is made of."""
        pieces = sorted(self._pieces().items(), key=lambda item: item[1])
        return {**super().files(), "vocab.txt": "".join(f"{piece}\n" for piece, _ in pieces).encode()}

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of ``text``, then of ``pair``; ``options`` as in a call."""
        ids = self(text, pair, add_special_tokens=add_special_tokens, **options)["input_ids"]
        return self.convert_ids_to_tokens(ids)

    def encode(
        self, text: Text, text_pair: Text | None = None, add_special_tokens: bool = True, **options: Any
    ) -> Any:
        """The ids of ``text``; ``options`` as in a call, whose ``input_ids`` this gives."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """``encode`` of many texts."""
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    def encode_literally(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """``encode_batch``, but a special token spelled out in a text stays text."""
        return [
            self.encode(text, add_special_tokens=add_special_tokens, split_special_tokens=True)
            for text in texts
        ]

    def encode_with_offsets(self, texts: Sequence[str]) -> Any:
        """``ValueError``: only ``BertTokenizer`` knows where in a text a token is."""
        raise ValueError("BertTokenizerLegacy: it knows no offsets; BertTokenizer would do.")

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens."""
        return " ".join(tokens).replace(" ##", "").strip()

    # What a call does with each text

    def _encode(self, text: Text, text_pair: Text | None, asked: CallOptions) -> BatchEncoding:
        if asked.return_offsets_mapping:
            self.encode_with_offsets(())
        inputs, batched = as_batch(text, text_pair, asked.is_split_into_words)
        if not batched and text_pair is not None:
            inputs = [(text, text_pair)]  # an empty second text counts here
        padding = {
            "padding": asked.padding,
            "max_length": asked.max_length,
            "pad_to_multiple_of": asked.pad_to_multiple_of,
            "padding_side": asked.padding_side,
        }
        rows = [self._prepared(entry, asked, {} if batched else padding) for entry in inputs]
        if not batched:
            return BatchEncoding(rows[0], tensor_type=asked.return_tensors, prepend_batch_axis=True)
        columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {"input_ids": []}
        if not rows or padding["padding"] in (False, "do_not_pad"):
            return BatchEncoding(columns, tensor_type=asked.return_tensors)
        return self.pad(
            columns,
            return_attention_mask=asked.return_attention_mask,
            return_tensors=asked.return_tensors,
            verbose=False,  # of a max_length that had its effect on each row already
            **padding,
        )

    def _prepared(self, entry: Any, asked: CallOptions, padding: Mapping[str, Any]) -> dict[str, Any]:
        pair = isinstance(entry, tuple)
        first, second = entry if pair else (entry, None)
        literal = asked.split_special_tokens
        literal = self.split_special_tokens if literal is None else literal
        row = self.prepare_for_model(
            self._ids(first, literal),
            self._ids(second, literal) if pair else None,
            add_special_tokens=asked.add_special_tokens,
            truncation=asked.truncation,
            stride=asked.stride,
            return_token_type_ids=asked.return_token_type_ids,
            return_attention_mask=asked.return_attention_mask,
            return_overflowing_tokens=asked.return_overflowing_tokens,
            return_special_tokens_mask=asked.return_special_tokens_mask,
            return_length=asked.return_length,
            verbose=asked.verbose,
            **{"max_length": asked.max_length, **padding},
        )
        return dict(row)

    def _ids(self, text: str | Sequence[str], literal: bool) -> list[int]:
        """The ids of a text, or of a text given word by word."""
        whole = [text] if isinstance(text, str) else text
        return self.convert_tokens_to_ids([token for part in whole for token in self._tokens(part, literal)])

    def _tokens(self, text: str, literal: bool) -> list[str]:
        added = self.added_tokens_encoder
        if literal or not added:
            return self._cut(text, ())
        pattern = "|".join(re.escape(token) for token in sorted(added, key=len, reverse=True))
        parts = re.split(f"({pattern})", text)
        return [
            token
            for part in parts
            for token in ([part] if part in added else self._cut(part, self.all_special_tokens))
        ]

    def _cut(self, text: str, special: Sequence[str]) -> list[str]:
        pieces, unknown = self._pieces(), str(self.unk_token)
        never_split = frozenset(self.never_split or ())
        found = text.split()
        if self.do_basic_tokenize:
            found = wordpiece_legacy.words(
                text,
                do_lower_case=self.do_lower_case,
                strip_accents=self.strip_accents,
                tokenize_chinese_chars=self.tokenize_chinese_chars,
                never_split=never_split.union(special),
            )
        whole = never_split if self.do_basic_tokenize else frozenset()
        return [
            piece
            for word in found
            for piece in ([word] if word in whole else wordpiece_legacy.pieces(word, pieces, unknown))
        ]

    def _pieces(self) -> dict[str, int]:
        if "pieces" not in self._derived:
            self._derived["pieces"] = self.backend.get_vocab(with_added_tokens=False)
        return self._derived["pieces"]

    def _text(self, ids: Sequence[int], skip_special_tokens: bool, clean: bool) -> str:
        text = self.convert_tokens_to_string(self.convert_ids_to_tokens(ids, skip_special_tokens))
        return self.clean_up_tokenization(text) if clean else text
