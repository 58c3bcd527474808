"""What the tokenizer classes of the families have in common: made of a vocabulary, or of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import tokenizers

from conf.errors import CheckpointError
from processors.tokenizers import files
from processors.tokenizers.families import Family
from processors.tokenizers.kinds import pieces
from processors.tokenizers.kinds.pieces import Pieces
from processors.tokenizers.special_tokens import ROLES, Token
from processors.tokenizers.tokenizer import Tokenizer

Scores = Sequence[tuple[str, float]]
# The arguments that every tokenizer takes, by the names of ``tokenizer_config.json``.
_USUAL = {
    "chat_template",
    "clean_up_tokenization_spaces",
    "extra_special_tokens",
    "model_input_names",
    "model_max_length",
    "padding_side",
    "split_special_tokens",
    "truncation_side",
}


def setting(name: str, meaning: str) -> property:
    """An attribute that tells a setting the tokenizer was made with."""
    return property(lambda self: self._other_config.get(name, self.family.settings.get(name)), doc=meaning)


class FamilyTokenizer(Tokenizer):
    """A tokenizer whose pipeline a family fixes; ``vocab`` is what differs between two of them.

    ``from_pretrained`` takes the family's settings too. A ``tokenizer.json`` is taken as it is, unless a
    setting is given: then the family's pipeline is put around its vocabulary anew.
    """

    family: ClassVar[Family]

    def __init__(self, found: Pieces, given: Mapping[str, Any], others: Mapping[str, Any]):
        """``given``: settings and special tokens; ``others``: arguments that every tokenizer takes."""
        tokens = {
            part: token
            for part, token in others.items()
            if part.endswith("_token") and isinstance(token, Token | None)
        }
        if unknown := others.keys() - tokens.keys() - _USUAL:
            raise TypeError(
                f"{type(self).__name__}: there is no argument {', '.join(sorted(unknown))}; there are "
                f"{', '.join(sorted({*given, *ROLES, *_USUAL}))}."
            )
        others = {name: value for name, value in others.items() if name not in tokens}
        template = others.pop("chat_template", None)
        parts = {
            "extra_special_tokens": others.pop("extra_special_tokens", ()),
            "chat_templates": {"default": template} if isinstance(template, str) else template,
            "model_max_length": others.pop("model_max_length", None),
        }
        roles = {role: token for role, token in given.items() if role in ROLES} | tokens
        settings = {key: value for key, value in given.items() if key not in ROLES}
        backend = self.family.build(found, {**given, **tokens})
        super().__init__(backend, special_tokens=roles, other_config=settings | others, **parts)

    @classmethod
    def _read_backend(
        cls, folder: Path, config: dict[str, Any], changes: Mapping[str, Any]
    ) -> tokenizers.Tokenizer:
        config["tokenizer_class"] = cls.tokenizer_class
        changed = {key: value for key, value in changes.items() if key in cls.own_settings}
        config |= changed
        backend = files.read_backend(folder, config)
        if not cls.family.fits(backend):
            raise CheckpointError(
                f"{folder}: its tokenizer is not of the kind that {cls.tokenizer_class} is "
                f"({cls.family.kind}); AutoTokenizer would take it as it is."
            )
        if not changed:
            return backend
        given = {key: config[key] for key in (*cls.family.settings, *ROLES) if config.get(key) is not None}
        return cls.family.build(pieces.of_backend(backend), given)

    @classmethod
    def _of(cls, backend: tokenizers.Tokenizer, **parts: Any) -> Self:
        made = cls.__new__(cls)
        Tokenizer.__init__(made, backend, **parts)
        return made

    def save_vocabulary(
        self, save_directory: str | Path, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary in its old form, which for some is the sentencepiece model it came from.

        Tells the paths. Added tokens are not in it.
        """
        if not self.original_files:
            return super().save_vocabulary(save_directory, filename_prefix)
        prefix, written = f"{filename_prefix}-" if filename_prefix else "", []
        for name, content in self.original_files.items():
            path = Path(save_directory, f"{prefix}{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written.append(str(path))
        return tuple(written)


def numbered(tokens: Sequence[Token]) -> Pieces:
    """The vocabulary of special tokens alone, for a tokenizer that others will be added to."""
    return Pieces(ids={str(token): index for index, token in enumerate(dict.fromkeys(map(str, tokens)))})


def scored(tokens: Sequence[Token]) -> Pieces:
    """``numbered`` for Unigram."""
    return Pieces(scores=[(token, 0.0) for token in dict.fromkeys(map(str, tokens))])
