"""Inputs made of ids instead of texts: where special tokens go around one or two sequences of ids.

The layout is that of the tokenizer's post-processor, read off from what it makes of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from processors.tokenizers.batch_encoding import BatchEncoding
from processors.tokenizers.calling import Calling
from processors.tokenizers.kinds.surroundings import begin_and_end
from processors.tokenizers.lengths import (
    Lengths,
    PaddingStrategy,
    TruncationStrategy,
    truncate_sequences,
)


@dataclass(frozen=True)
class _Piece:
    """A part of a layout: the given sequence 0 or 1, or else special tokens; with the type of its tokens."""

    sequence: int | None
    ids: tuple[int, ...]
    type_id: int


class Sequences(Calling):
    """What a tokenizer does with ids: special tokens, types, masks, truncation."""

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text, or a pair of texts, gets."""
        return self.backend.num_special_tokens_to_add(pair)

    # What is put around a text

    @property
    def add_bos_token(self) -> bool:
        """Whether texts begin with the ``bos_token``. Setting it makes them begin with that one or none.

        Setting this or ``add_eos_token`` gives texts the layout of Llama, whichever they had. ``ValueError``
        without such a token in the vocabulary, and where it would have to replace what the other end has.
        """
        return self.bos_token_id is not None and self.bos_token_id in self._ends()[0]

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._begin_and_end(bool(value), bool(self._ends()[1]))

    @property
    def add_eos_token(self) -> bool:
        """Whether texts end with the ``eos_token``. Setting it makes them end with that one or none."""
        return self.eos_token_id is not None and self.eos_token_id in self._ends()[1]

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._begin_and_end(bool(self._ends()[0]), bool(value))

    def update_post_processor(self) -> None:
        """After a new ``bos_token`` or ``eos_token``: put it where the old one was put, or nothing for None.

        ``ValueError`` for one that is not in the vocabulary.
        """
        start, end = self._ends()
        self._begin_and_end(
            bool(start) and self.bos_token is not None, bool(end) and self.eos_token is not None
        )

    def _ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before and behind a text."""
        pieces = self._layout(pair=False)
        start, end = (() if one.sequence is not None else one.ids for one in (pieces[0], pieces[-1]))
        return start, end

    def _begin_and_end(self, start: bool, end: bool) -> None:
        """Put ``bos_token`` before texts, ``eos_token`` behind them, and nothing else."""
        for role, wanted in (("bos_token", start), ("eos_token", end)):
            token = getattr(self, role)
            if wanted and token is None:
                raise ValueError(f"add_{role}: the tokenizer has no {role}; tokenizer.{role} = ... would do.")
            if wanted and self.backend.token_to_id(token) is None:
                raise ValueError(f"{token!r} is not in the vocabulary; add_tokens would put it there.")
        begin_and_end(self.backend, self.bos_token if start else None, self.eos_token if end else None)
        self.backend_changed()

    @property
    def max_len_single_sentence(self) -> int:
        """The model's limit in tokens without the special ones of a text."""
        return self.model_max_length - self.num_special_tokens_to_add(False)

    @property
    def max_len_sentences_pair(self) -> int:
        """The model's limit in tokens without the special ones of a pair of texts."""
        return self.model_max_length - self.num_special_tokens_to_add(True)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """One or two sequences of ids with the special tokens that the model expects."""
        given = (token_ids_0, token_ids_1 or [])
        pieces = self._layout(token_ids_1 is not None)
        return [
            token_id
            for piece in pieces
            for token_id in (piece.ids if piece.sequence is None else given[piece.sequence])
        ]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The type of each token of ``build_inputs_with_special_tokens``: which sequence it belongs to."""
        lengths = (len(token_ids_0), len(token_ids_1 or []))
        return [
            piece.type_id
            for piece in self._layout(token_ids_1 is not None)
            for _ in range(len(piece.ids) if piece.sequence is None else lengths[piece.sequence])
        ]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where a token of ``build_inputs_with_special_tokens`` is an added one, else 0.

        With ``already_has_special_tokens`` the ids are such inputs, and what is special is known by its id.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError("token_ids_1: inputs that have their special tokens are one sequence.")
            special = set(self.all_special_ids)
            return [int(int(token_id) in special) for token_id in token_ids_0]
        lengths = (len(token_ids_0), len(token_ids_1 or []))
        return [
            int(piece.sequence is None)
            for piece in self._layout(token_ids_1 is not None)
            for _ in range(len(piece.ids) if piece.sequence is None else lengths[piece.sequence])
        ]

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str | TruncationStrategy = TruncationStrategy.LONGEST_FIRST,
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Both sequences shortened at ``truncation_side``, and what was cut off; see ``lengths``."""
        return truncate_sequences(
            ids, pair_ids, num_tokens_to_remove, truncation_strategy, stride, side=self.truncation_side
        )

    def prepare_for_model(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool | str | TruncationStrategy | None = False,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
    ) -> BatchEncoding:
        """The model's inputs for one or two sequences of ids; arguments as in a call.

        ``return_overflowing_tokens`` gives what was cut off as ``overflowing_tokens``, and
        ``num_truncated_tokens``; ``ValueError`` for pairs with ``longest_first``, which tells none.
        """
        lengths = self._lengths(
            padding, truncation, max_length, stride, pad_to_multiple_of, padding_side, verbose=verbose
        )
        pairs_cut_both = lengths.truncation is TruncationStrategy.LONGEST_FIRST and pair_ids is not None
        if return_overflowing_tokens and pairs_cut_both:
            raise ValueError(
                "truncation: longest_first cuts both of a pair; only_first, only_second would do."
            )
        excess = self._excess(ids, pair_ids, add_special_tokens, lengths)
        ids, pair_ids, cut = self.truncate_sequences(ids, pair_ids, excess, lengths.truncation, stride)
        row: dict[str, Any] = self._joined(ids, pair_ids, add_special_tokens)
        if not self._gives("token_type_ids", return_token_type_ids):
            del row["token_type_ids"]
        if not return_special_tokens_mask:
            del row["special_tokens_mask"]
        if verbose:
            self._warn_if_too_long(row["input_ids"], lengths.max_length)
        masked = self._gives("attention_mask", return_attention_mask)
        row = self._padded(row, len(row["input_ids"]), lengths, masked)
        if return_overflowing_tokens and cut and return_tensors is None:
            row["overflowing_tokens"], row["num_truncated_tokens"] = cut, excess
        if return_length:
            row["length"] = len(row["input_ids"])
        return BatchEncoding(row, tensor_type=return_tensors, prepend_batch_axis=prepend_batch_axis)

    def _excess(
        self, ids: list[int], pair_ids: list[int] | None, add_special_tokens: bool, lengths: Lengths
    ) -> int:
        """How many tokens both sequences are to lose so that they fit with their special tokens."""
        if not lengths.truncates or lengths.max_length is None:
            return 0
        added = self.num_special_tokens_to_add(pair_ids is not None) if add_special_tokens else 0
        return len(ids) + len(pair_ids or []) + added - lengths.max_length

    def _joined(
        self, ids: list[int], pair_ids: list[int] | None, add_special_tokens: bool
    ) -> dict[str, list[int]]:
        """Tokens, their types, and which are special."""
        if not add_special_tokens:
            joined = [*ids, *(pair_ids or [])]
            zeros = [0] * len(joined)
            return {"input_ids": joined, "token_type_ids": zeros, "special_tokens_mask": list(zeros)}
        return {
            "input_ids": self.build_inputs_with_special_tokens(ids, pair_ids),
            "token_type_ids": self.create_token_type_ids_from_sequences(ids, pair_ids),
            "special_tokens_mask": self.get_special_tokens_mask(ids, pair_ids),
        }

    def _layout(self, pair: bool) -> list[_Piece]:
        """What a text or a pair becomes, in order; read off from the texts "a" and "a"."""
        key = ("layout", pair)
        if key not in self._derived:
            (encoding,) = self.backend.encode_batch([("a", "a") if pair else "a"])
            tokens = zip(encoding.sequence_ids, encoding.type_ids, encoding.ids, strict=True)
            self._derived[key] = [
                _Piece(sequence, tuple(token_id for _, _, token_id in group), type_id)
                for (sequence, type_id), group in groupby(tokens, key=lambda token: token[:2])
            ]
        return self._derived[key]
