"""The tokenizer of Llama 1 and 2: BPE with byte fallback. Source: Touvron et al. 2023."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tokenizers

from processors.tokenizers.families import LLAMA
from processors.tokenizers.family_tokenizer import FamilyTokenizer, numbered, setting
from processors.tokenizers.kinds.pieces import Pieces, read_ids, read_merges
from processors.tokenizers.kinds.surroundings import begin_and_end
from processors.tokenizers.sentencepiece import SentencePieceModel
from processors.tokenizers.special_tokens import Token


class LlamaTokenizer(FamilyTokenizer):
    """``<s> A </s>`` with those of the two that are asked for, and no normalisation of a text.

    ``vocab`` maps pieces to ids, lists them in the order of their ids, or is the path of a
    ``tokenizer.model`` or a ``vocab.json``; without one there are the special tokens alone. ``merges`` is a
    list of pairs or the path of a ``merges.txt``; a ``tokenizer.model`` has its own.
    ``add_prefix_space`` (None: yes) writes a space before a text, which decoding takes off again; with
    ``legacy`` also after every special token. ``use_default_system_prompt`` is kept for other programs.
    ``add_bos_token`` and ``add_eos_token`` (off) are among ``others``, as are the arguments of every
    tokenizer; both can be set later. After a new ``bos_token`` or ``eos_token``, ``update_post_processor``
    puts it around texts.
    """

    tokenizer_class = "LlamaTokenizer"
    family = LLAMA
    own_settings = frozenset(LLAMA.settings)
    model_input_names = LLAMA.input_names
    padding_side = LLAMA.padding_side

    add_prefix_space = setting("add_prefix_space", "Whether a space is written before a text; None is yes.")
    legacy = setting("legacy", "Whether a space is written after special tokens too.")

    def __init__(
        self,
        vocab: str | Path | Mapping[str, int] | Sequence[str] | None = None,
        merges: str | Path | Sequence[str | tuple[str, str]] | None = None,
        clean_up_tokenization_spaces: bool = False,
        unk_token: Token = "<unk>",
        bos_token: Token = "<s>",
        eos_token: Token = "</s>",
        use_default_system_prompt: bool = False,
        legacy: bool = False,
        add_prefix_space: bool | None = None,
        **others: Any,
    ):
        adds = {name: others.pop(name, False) for name in ("add_bos_token", "add_eos_token")}
        given = {
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
            "use_default_system_prompt": use_default_system_prompt,
            "legacy": legacy,
            "add_prefix_space": add_prefix_space,
            "unk_token": unk_token,
            "bos_token": bos_token,
            "eos_token": eos_token,
        }
        found = numbered((unk_token, bos_token, eos_token)) if vocab is None else _pieces(vocab, merges)
        super().__init__(found, given, others)
        self._adds = (bool(adds["add_bos_token"]), bool(adds["add_eos_token"]))
        self.update_post_processor()

    @classmethod
    def _of(cls, backend: tokenizers.Tokenizer, **parts: Any) -> Self:
        made = super()._of(backend, **parts)
        whole, bare = backend.encode("a").ids, backend.encode("a", add_special_tokens=False).ids
        made._adds = (whole[:1] != bare[:1], whole[-1:] != bare[-1:])
        return made

    @property
    def add_bos_token(self) -> bool:
        """Whether texts begin with the ``bos_token``; can be set."""
        return self._adds[0]

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._adds = (value, self._adds[1])
        self.update_post_processor()

    @property
    def add_eos_token(self) -> bool:
        """Whether texts end with the ``eos_token``; can be set."""
        return self._adds[1]

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._adds = (self._adds[0], value)
        self.update_post_processor()

    def update_post_processor(self) -> None:
        """Put the present ``bos_token`` and ``eos_token`` around texts, where each is asked for and set.

        ``ValueError`` for one that is not in the vocabulary.
        """
        start = self.bos_token if self.add_bos_token else None
        end = self.eos_token if self.add_eos_token else None
        for token in (start, end):
            if token is not None and self.token_to_id(token) is None:
                raise ValueError(f"{token!r} is not in the vocabulary; add_tokens would put it there.")
        begin_and_end(self.backend, start, end)
        self.backend_changed()


def _pieces(
    vocab: str | Path | Mapping[str, int] | Sequence[str],
    merges: str | Path | Sequence[str | tuple[str, str]] | None,
) -> Pieces:
    """The vocabulary in any of the forms that the constructor takes."""
    if isinstance(vocab, str | Path):
        path = Path(vocab)
        if path.suffix == ".model":
            return SentencePieceModel.read(path).pieces
        found = dict(read_ids(path).numbered())
    elif isinstance(vocab, Mapping):
        found = dict(vocab)
    else:
        found = {piece: index for index, piece in enumerate(vocab)}
    if merges is None:
        return Pieces(ids=found)
    if isinstance(merges, str | Path):
        return Pieces(ids=found, merges=read_merges(Path(merges)))
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
    return Pieces(ids=found, merges=[(left, right) for left, right in pairs])


LlamaTokenizerFast = LlamaTokenizer
