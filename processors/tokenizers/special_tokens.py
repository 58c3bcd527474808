"""The special tokens of a tokenizer: which token plays which part, and how new ones are added.

A *part* is a name such as ``pad_token``; seven are common to all (``ROLES``), others belong to one model
(``image_token``). The text of a part is an attribute of the tokenizer, its id the attribute with ``_id``;
both can be set. Extra special tokens are special without a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import tokenizers
from tokenizers import AddedToken

from conf.errors import CheckpointError

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Token = str | AddedToken


def _token(role: str) -> property:
    def get(self: SpecialTokens) -> str | None:
        return self.special_tokens.get(role)

    def put(self: SpecialTokens, token: Token | None) -> None:
        self._name(role, token)

    return property(get, put, doc=f"The {role}, or None; setting it does not add it to the vocabulary.")


def _token_id(role: str) -> property:
    def get(self: SpecialTokens) -> int | None:
        return self._id_of(role)

    def put(self: SpecialTokens, token_id: int | None) -> None:
        self._name(role, None if token_id is None else self._token_of(token_id))

    return property(get, put, doc=f"The id of the {role}, or None.")


class SpecialTokens:
    """The parts of special tokens, on a backend that knows each of them as special."""

    bos_token, bos_token_id = _token("bos_token"), _token_id("bos_token")
    eos_token, eos_token_id = _token("eos_token"), _token_id("eos_token")
    unk_token, unk_token_id = _token("unk_token"), _token_id("unk_token")
    sep_token, sep_token_id = _token("sep_token"), _token_id("sep_token")
    pad_token, pad_token_id = _token("pad_token"), _token_id("pad_token")
    cls_token, cls_token_id = _token("cls_token"), _token_id("cls_token")
    mask_token, mask_token_id = _token("mask_token"), _token_id("mask_token")

    pad_token_type_id = 0

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, Token],
        extra_special_tokens: Sequence[Token] | Mapping[str, Token] = (),
    ):
        self.backend = backend
        # What is worked out from the backend: it is shared with it by the copies that share the backend.
        self._derived: dict[Any, Any] = {}
        named = {role: token for role, token in special_tokens.items() if token is not None}
        if isinstance(extra_special_tokens, Mapping):
            named, extra_special_tokens = {**named, **extra_special_tokens}, ()
        self.special_tokens = {role: str(token) for role, token in named.items()}
        self._extra = list(dict.fromkeys(str(token) for token in extra_special_tokens))
        known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        wanted = {str(token): token for token in (*named.values(), *extra_special_tokens)}
        backend.add_special_tokens([_special(token) for text, token in wanted.items() if text not in known])

    def __getattr__(self, name: str) -> Any:
        """The parts beyond ``ROLES``: ``image_token`` and ``image_token_id``."""
        part = name.removesuffix("_id")
        if part not in self.__dict__.get("special_tokens", ()):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return self.special_tokens[part] if part == name else self._id_of(part)

    def __setattr__(self, name: str, value: Any) -> None:
        part = name.removesuffix("_id")
        if part in ROLES or part not in self.__dict__.get("special_tokens", ()):
            super().__setattr__(name, value)
        else:
            self._name(part, value if part == name or value is None else self._token_of(value))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": {}}

    def __copy__(self) -> Self:
        """One with parts of its own on the same backend, and on what is worked out from that."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.special_tokens = dict(self.special_tokens)
        return made

    def backend_changed(self) -> None:
        """To be called after ``backend`` was changed from outside: what was worked out from it is forgotten.

        The methods here that change it do so by themselves.
        """
        self._derived.clear()

    # Tokens of a part

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The text of each part that is set, the seven common ones first."""
        named = [*(role for role in ROLES if role in self.special_tokens), *self.special_tokens]
        return {role: self.special_tokens[role] for role in named}

    @property
    def extra_special_tokens(self) -> list[str]:
        """The special tokens without a part of their own. Setting them adds none to the vocabulary."""
        return list(self._extra)

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[Token] | None) -> None:
        if isinstance(tokens, str | Mapping):
            raise ValueError(f"extra_special_tokens: {tokens!r} was given; a list of tokens would do.")
        self._extra = list(dict.fromkeys(str(token) for token in tokens or ()))

    @property
    def extra_special_tokens_ids(self) -> list[int | None]:
        """The ids of ``extra_special_tokens``."""
        return [self.backend.token_to_id(token) for token in self._extra]

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens of all parts and the extra ones, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of ``all_special_tokens``; those that are not in the vocabulary have none."""
        found = (self.backend.token_to_id(token) for token in self.all_special_tokens)
        return [token_id for token_id in found if token_id is not None]

    def _name(self, role: str, token: Token | None) -> None:
        if token is None:
            self.special_tokens.pop(role, None)
        elif isinstance(token, str | AddedToken):
            self.special_tokens[role] = str(token)
        else:
            raise ValueError(f"{role}: {token!r} was given; the text of a token would do.")

    def _id_of(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.backend.token_to_id(token)

    def _token_of(self, token_id: int) -> str:
        token = self.backend.id_to_token(token_id)
        if token is None:
            raise ValueError(f"There is no token with the id {token_id}.")
        return token

    # Tokens of the backend

    @property
    def special_texts(self) -> frozenset[str]:
        """Every special token's text, reserved ones included."""
        if "special_texts" not in self._derived:
            self._derived["special_texts"] = frozenset(
                token.content for token in self.added_tokens_decoder.values() if token.special
            )
        return self._derived["special_texts"]

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of ``special_texts``."""
        if "special_ids" not in self._derived:
            self._derived["special_ids"] = frozenset(
                token_id for token_id, token in self.added_tokens_decoder.items() if token.special
            )
        return self._derived["special_ids"]

    @property
    def leading_ids(self) -> tuple[int, ...]:
        """What ``encode`` puts before every text by itself: the BOS token for many models, else nothing."""
        if "leading_ids" not in self._derived:
            whole = self.backend.encode("a").ids
            bare = self.backend.encode("a", add_special_tokens=False).ids
            starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
            if not starts:
                raise CheckpointError(
                    "The tokenizer's post-processor changes the tokens of a text instead of adding some."
                )
            self._derived["leading_ids"] = tuple(whole[: starts[0]])
        return self._derived["leading_ids"]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are matched before the text is split, by id in ascending order."""
        return dict(sorted(self.backend.get_added_tokens_decoder().items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Text to id of ``added_tokens_decoder``."""
        return {token.content: token_id for token_id, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """Text to id of the tokens that are matched before the text is split."""
        return self.added_tokens_encoder

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens that are matched before the text is split; how many were new to the vocabulary.

        The model's embedding must get their rows afterwards.
        """
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        add = self.backend.add_special_tokens if special_tokens else self.backend.add_tokens
        added = add(tokens)
        self.backend_changed()
        return added

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Token | Sequence[Token]],
        replace_extra_special_tokens: bool = True,
    ) -> int:
        """Give parts their tokens, adding those that the vocabulary lacks; how many were added.

        ``extra_special_tokens`` is a list that takes the place of the present one, or is added to it with
        ``replace_extra_special_tokens=False``. Raises ``ValueError`` for a part that does not exist.
        """
        given = dict(special_tokens_dict)
        if "additional_special_tokens" in given and not given.get("extra_special_tokens"):
            given["extra_special_tokens"] = given.pop("additional_special_tokens")
        parts = [*dict.fromkeys([*ROLES, *self.special_tokens]), "extra_special_tokens"]
        for part, value in given.items():
            _check_part(part, value, parts)
        new: list[AddedToken] = []
        for part, value in given.items():
            if isinstance(value, str | AddedToken):
                self._name(part, value)
                new.append(_special(value))
            else:
                present = [] if replace_extra_special_tokens and value else self._extra
                self.extra_special_tokens = [*present, *value]
                new += [_special(token) for token in value]
        return self.add_tokens(new, special_tokens=True)


def _special(token: Token) -> AddedToken:
    if isinstance(token, AddedToken):
        return token
    return AddedToken(token, special=True, normalized=False)


def _check_part(part: str, value: Any, parts: Sequence[str]) -> None:
    if part not in parts:
        raise ValueError(f"{part!r} is no part of a special token; one of {', '.join(parts)} would do.")
    if part == "extra_special_tokens":
        if isinstance(value, list | tuple) and all(isinstance(token, str | AddedToken) for token in value):
            return
        raise ValueError(f"extra_special_tokens: {value!r} was given; a list of tokens would do.")
    if not isinstance(value, str | AddedToken):
        raise ValueError(f"{part}: {value!r} was given; the text of a token would do.")
