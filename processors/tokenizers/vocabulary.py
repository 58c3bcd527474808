"""From ids back: tokens, text, and the vocabulary between them.

Shapes: B sequences of ids, T ids each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from processors.tokenizers.special_tokens import SpecialTokens

# What clean_up_tokenization_spaces takes a space out of, in this order.
_TIGHT = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Vocabulary(SpecialTokens):
    """Tokens by id and ids by token, and the text of ids."""

    clean_up_tokenization_spaces: bool = False
    clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output: bool = False

    def __len__(self) -> int:
        """The number of tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """The number of tokens without the added ones."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return self.backend.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return self.get_vocab()

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self.backend.id_to_token(token_id)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token or the ids of many; the id of the unknown token for those that are none."""
        unknown = self.unk_token_id
        if isinstance(tokens, str):
            found = self.backend.token_to_id(tokens)
            return unknown if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id or the tokens of many, without those of ``all_special_ids`` if wanted."""
        ids = _plain(ids)
        if isinstance(ids, int):
            return self.backend.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.backend.id_to_token(int(i)) for i in ids if int(i) not in skipped]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens."""
        decoder = self.backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """The text of ids (T,), or the list of texts of a batch (B, T); lists, arrays or tensors.

        Special tokens are shown unless skipped. ``clean_up_tokenization_spaces`` takes out spaces before
        punctuation, by default as the attribute of that name says, and never with BPE, whose texts
        have their own spaces.
        """
        ids = _plain(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        ids = [ids] if isinstance(ids, int) else list(ids)
        clean = clean_up_tokenization_spaces
        clean = self.clean_up_tokenization_spaces if clean is None else clean
        if ids and isinstance(ids[0], list | tuple):
            return [self._text(row, skip_special_tokens, clean) for row in ids]
        return self._text(ids, skip_special_tokens, clean)

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """``decode``, a list also for one sequence."""
        found = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [found] if isinstance(found, str) else found

    def clean_up_tokenization(self, text: str) -> str:
        """``text`` without the spaces that English punctuation and contractions do not have."""
        for spaced, tight in _TIGHT:
            text = text.replace(spaced, tight)
        return text

    def _text(self, ids: Sequence[int], skip_special_tokens: bool, clean: bool) -> str:
        text = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        if not clean:
            return text
        forced = self.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
        return (
            text
            if type(self.backend.model).__name__ == "BPE" and not forced
            else self.clean_up_tokenization(text)
        )


def _plain(ids: Any) -> Any:
    """Numbers and lists of arrays and tensors, themselves or in a list."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    if isinstance(ids, list) and ids and type(ids[0]) is int:
        return ids  # as nearly always, and many
    return [_plain(one) for one in ids] if isinstance(ids, list | tuple) else ids
