"""The tokenizer of Llama 1 and 2: BPE with byte fallback. Source: Touvron et al. 2023."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from processors.tokenizers.families import LLAMA
from processors.tokenizers.family_tokenizer import FamilyTokenizer, numbered, setting
from processors.tokenizers.kinds.pieces import Pieces, read_ids, read_merges
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
        adds = [bool(others.pop(name, False)) for name in ("add_bos_token", "add_eos_token")]
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
        self._begin_and_end(*adds)


def _pieces(
    vocab: str | Path | Mapping[str, int] | Sequence[str],
    merges: str | Path | Sequence[str | tuple[str, str]] | None,
) -> Pieces:
    """The vocabulary in any of the forms that the constructor takes."""
    if isinstance(vocab, str | Path):
        path = Path(vocab)
        if path.suffix == ".model":
            return SentencePieceModel.read(path).pieces
        found = dict(read_ids(path).ids or {})
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
