"""Calling a tokenizer: texts in, the model's inputs out.

Shapes: B texts, or windows of texts with ``return_overflowing_tokens``; T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import tokenizers

from conf import logging
from processors.tokenizers import backends
from processors.tokenizers.batch_encoding import BatchEncoding
from processors.tokenizers.lengths import Lengths, PaddingStrategy, TruncationStrategy
from processors.tokenizers.padding import Padding

logger = logging.get_logger(__name__)

_VIEWS = 16  # ways of truncating that are kept ready

# A text, a text split into words, or a batch of either; in a batch, tuples of two are pairs.
Text = str | Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """What a call may be asked for; names, defaults and meaning are the reference's.

    ``add_special_tokens``: those that the model expects around texts.
    ``padding``: True or ``longest``, ``max_length``, False; ``pad_to_multiple_of`` rounds the length up.
    ``truncation``: True or ``longest_first``, ``only_first``, ``only_second``, False.
    ``max_length``: in tokens, by default the model's limit; ``max_target_length``: that of ``text_target``.
    ``stride``: tokens that windows of one text have in common.
    ``is_split_into_words``: a list of texts is one text, word by word.
    ``split_special_tokens``: a special token spelled out in a text is text; by default as the tokenizer's
    attribute of this name says.
    ``return_tensors``: ``pt`` or ``np``. The columns ``token_type_ids`` and ``attention_mask`` are given
    where the model takes them, the others when asked for; ``return_overflowing_tokens`` gives what was cut
    off as further rows, and ``overflow_to_sample_mapping`` tells the text of each row.
    ``verbose``: warn of texts longer than the model's limit, once.
    """

    add_special_tokens: bool = True
    padding: bool | str | PaddingStrategy = False
    truncation: bool | str | TruncationStrategy | None = None
    max_length: int | None = None
    max_target_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    split_special_tokens: bool | None = None
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True

    @classmethod
    def of(cls, options: dict[str, Any]) -> CallOptions:
        """``TypeError`` naming an option that does not exist."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise TypeError(
                f"tokenizer call: there is no {', '.join(unknown)} (there are {', '.join(known)})."
            )
        return cls(**options)


class Calling(Padding):
    """The call of a tokenizer, safe from several threads: nothing of one call is left for another."""

    split_special_tokens: bool = False

    def __call__(
        self,
        text: Text | None = None,
        text_pair: Text | None = None,
        text_target: Text | None = None,
        text_pair_target: Text | None = None,
        *,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> BatchEncoding:
        """The model's inputs for a text, a pair of texts, or a batch of them.

        A batch is a list of texts (with ``text_pair`` a second list), of pairs as tuples, or with
        ``is_split_into_words`` of lists of words. ``text_target`` gives ``labels``: its tokens, or alone the
        inputs. ``options`` are those of ``CallOptions``, also as ``tokenizer_kwargs``. One text gives plain
        lists without the batch, unless tensors or windows are asked for. Raises ``ValueError`` or
        ``TypeError`` saying what is wrong with texts or options. Source: the reference's tokenizer page.
        """
        asked = CallOptions.of({**(tokenizer_kwargs or {}), **options})
        if text is None and text_target is None:
            raise ValueError("tokenizer call: neither text nor text_target was given.")
        inputs = None if text is None else self._encode(text, text_pair, asked)
        if text_target is None:
            assert inputs is not None
            return inputs
        length = asked.max_length if asked.max_target_length is None else asked.max_target_length
        targets = self._encode(text_target, text_pair_target, replace(asked, max_length=length))
        if inputs is None:
            return targets
        inputs["labels"] = targets["input_ids"]
        return inputs

    def encode(
        self, text: Text, text_pair: Text | None = None, add_special_tokens: bool = True, **options: Any
    ) -> Any:
        """The ids of ``text``; special tokens spelled out in it are parsed, as everywhere in the field.

        ``options`` as in a call, whose ``input_ids`` this gives.
        """
        if text_pair is None and not options and isinstance(text, str) and not self.split_special_tokens:
            ids = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
            self._warn_if_too_long(ids, None)
            return ids
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of ``text``; ``options`` as in a call."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """``encode`` of many texts, the fast way (no offsets are computed)."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Encodings of the bare texts, special tokens parsed and none added, with character offsets."""
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    def encode_literally(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """``encode_batch``, but a special token spelled out in a text stays text: data cannot forge one."""
        backend = self._view(Lengths(), literal=True)
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    # The Rust tokenizer

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The Rust tokenizer, with the lengths of ``set_truncation_and_padding`` where they were set.

        ``backend`` itself never has any.
        """
        return self._derived.get("with_lengths", self.backend)

    def set_truncation_and_padding(
        self,
        padding_strategy: PaddingStrategy,
        truncation_strategy: TruncationStrategy,
        max_length: int | None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
    ) -> None:
        """Give ``backend_tokenizer`` these lengths, for whoever encodes with it directly.

        Calls of this tokenizer have lengths of their own and neither see nor change these.
        """
        lengths = self._lengths(
            padding_strategy, truncation_strategy, max_length, stride, pad_to_multiple_of, padding_side
        )
        self._derived.pop("with_lengths", None)
        if not lengths.truncates and not lengths.pads:
            return
        made = backends.view(self.backend, lengths)
        if lengths.pads:
            made.enable_padding(
                length=lengths.max_length if lengths.padding is PaddingStrategy.MAX_LENGTH else None,
                direction=lengths.padding_side,
                pad_id=self.pad_token_id,
                pad_token=self.pad_token,
                pad_type_id=self.pad_token_type_id,
                pad_to_multiple_of=lengths.pad_to_multiple_of,
            )
        self._derived["with_lengths"] = made

    def _view(self, lengths: Lengths, literal: bool) -> tokenizers.Tokenizer:
        """The backend for such a call; itself where nothing is cut or literal."""
        if not lengths.truncates and not literal:
            return self.backend
        cut = (lengths.max_length, lengths.stride, lengths.truncation, lengths.truncation_side)
        key = (cut if lengths.truncates else None, literal)
        views = self._derived.setdefault("views", {})
        found = views.get(key)
        if found is None:
            found = backends.view(self.backend, lengths, literal=literal)
            if len(views) >= _VIEWS:
                views.clear()
            views[key] = found
        return found

    # From texts to columns

    def _encode(self, text: Text, text_pair: Text | None, asked: CallOptions) -> BatchEncoding:
        lengths = self._lengths_of(asked)
        inputs, batched = as_batch(text, text_pair, asked.is_split_into_words)
        literal = (
            self.split_special_tokens if asked.split_special_tokens is None else asked.split_special_tokens
        )
        encodings = backends.encode_batch(
            self._view(lengths, literal),
            inputs,
            add_special_tokens=asked.add_special_tokens,
            split=asked.is_split_into_words,
        )
        if lengths.pads:
            assert self.pad_token is not None
            assert self.pad_token_id is not None
            backends.pad_batch(
                encodings,
                lengths,
                token=self.pad_token,
                token_id=self.pad_token_id,
                type_id=self.pad_token_type_id,
            )
        return self._collected(encodings, asked, lengths, batched)

    def _lengths_of(self, asked: CallOptions) -> Lengths:
        return self._lengths(
            asked.padding,
            asked.truncation,
            asked.max_length,
            asked.stride,
            asked.pad_to_multiple_of,
            asked.padding_side,
            verbose=asked.verbose,
        )

    def _collected(
        self, encodings: Sequence[tokenizers.Encoding], asked: CallOptions, lengths: Lengths, batched: bool
    ) -> BatchEncoding:
        """The columns of encodings, windows of long texts as rows of their own where they are asked for."""
        rows, origins = list(encodings), list(range(len(encodings)))
        if asked.return_overflowing_tokens:
            found = [(i, row) for i, whole in enumerate(encodings) for row in (whole, *whole.overflowing)]
            rows, origins = [row for _, row in found], [origin for origin, _ in found]
        columns = self._columns(rows, asked)
        if asked.return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = origins
        if asked.verbose:
            for ids in columns["input_ids"]:
                self._warn_if_too_long(ids, lengths.max_length)
        if not batched and asked.return_tensors is None and not asked.return_overflowing_tokens:
            columns = first_row(columns)
        return BatchEncoding(columns, rows, tensor_type=asked.return_tensors)

    def _columns(self, rows: Sequence[tokenizers.Encoding], asked: CallOptions) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {"input_ids": [row.ids for row in rows]}
        if self._gives("token_type_ids", asked.return_token_type_ids):
            columns["token_type_ids"] = [row.type_ids for row in rows]
        if self._gives("attention_mask", asked.return_attention_mask):
            columns["attention_mask"] = [row.attention_mask for row in rows]
        if asked.return_special_tokens_mask:
            columns["special_tokens_mask"] = [row.special_tokens_mask for row in rows]
        if asked.return_offsets_mapping:
            columns["offset_mapping"] = [row.offsets for row in rows]
        if asked.return_length:
            columns["length"] = [len(row) for row in rows]
        return columns

    def _warn_if_too_long(self, ids: Sequence[int], max_length: int | None) -> None:
        if max_length is None and len(ids) > self.model_max_length > 0 and not self._derived.get("warned"):
            self._derived["warned"] = True
            logger.warning(
                "A text of %d tokens is longer than the model's limit of %d; truncation=True would cut it.",
                len(ids),
                self.model_max_length,
            )


def first_row(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a batch of one without the batch; those with a number for each row stay lists."""
    return {name: column[0] if isinstance(column[0], list) else column for name, column in columns.items()}


def as_batch(text: Text, text_pair: Text | None, split: bool) -> tuple[list[Any], bool]:
    """The texts as the Rust tokenizer takes them, and whether they were a batch."""
    for name, given in (("text", text), ("text_pair", text_pair)):
        if given is not None and not _is_text(given):
            raise ValueError(
                f"{name}: {given!r:.60} was given; a text, a list of texts, or with is_split_into_words "
                "lists of words would do."
            )
    listed = isinstance(text, list | tuple)
    batched = listed and (not split or (len(text) > 0 and isinstance(text[0], list | tuple)))
    if not batched:
        return [(text, text_pair) if text_pair else text], False
    if isinstance(text_pair, str):
        raise TypeError("text_pair: one text was given for a batch of texts; a list of as many would do.")
    if text_pair is None:
        return list(text), True
    if len(text) != len(text_pair):
        raise ValueError(f"text_pair: {len(text_pair)} texts were given for a batch of {len(text)}.")
    return list(zip(text, text_pair, strict=True)), True


def _is_text(value: Any, depth: int = 3) -> bool:
    """Whether a value is a text, or lists of texts at most ``depth`` deep, judged by their first items."""
    if isinstance(value, str):
        return True
    return isinstance(value, list | tuple) and (not value or (depth > 0 and _is_text(value[0], depth - 1)))
