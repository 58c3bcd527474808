"""A tokenizer as models carry it: the fast tokenizer, its special tokens and its chat templates.

The files are the usual ones of a Hugging Face folder: ``tokenizer.json`` (all that decides ids),
``tokenizer_config.json`` and ``special_tokens_map.json`` (which token plays which part),
``chat_template.jinja`` and ``additional_chat_templates/*.jinja``. Where they disagree about how a text starts
and ends, ``tokenizer.json`` wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import tokenizers

from conf.errors import CheckpointError, ConfigError
from processors import templates
from processors.tokenizers import files

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _token(role: str) -> property:
    return property(lambda self: self.special_tokens.get(role), doc=f"The {role}, or None.")


def _token_id(role: str) -> property:
    def get(self: Tokenizer) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.token_to_id(token)

    return property(get, doc=f"The id of the {role}, or None.")


class Tokenizer:
    """Text to ids and back, with the special tokens and chat templates that belong to a model.

    ``special_tokens`` maps ``bos_token``, ``eos_token``, ... to their text; ``extra_special_tokens`` are
    special without a part of their own; ``chat_templates`` maps names to Jinja sources, ``default`` being the
    usual one. Tokens that ``backend`` does not know as special are added to it.
    """

    bos_token, bos_token_id = _token("bos_token"), _token_id("bos_token")
    eos_token, eos_token_id = _token("eos_token"), _token_id("eos_token")
    unk_token, unk_token_id = _token("unk_token"), _token_id("unk_token")
    sep_token, sep_token_id = _token("sep_token"), _token_id("sep_token")
    pad_token, pad_token_id = _token("pad_token"), _token_id("pad_token")
    cls_token, cls_token_id = _token("cls_token"), _token_id("cls_token")
    mask_token, mask_token_id = _token("mask_token"), _token_id("mask_token")

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str],
        extra_special_tokens: Sequence[str] = (),
        chat_templates: Mapping[str, str] | None = None,
        model_max_length: int | None = None,
        other_config: Mapping[str, Any] | None = None,
    ):
        self.backend = backend
        self.special_tokens = dict(special_tokens)
        self.extra_special_tokens = tuple(extra_special_tokens)
        self.chat_templates = dict(chat_templates or {})
        self.model_max_length = model_max_length
        self._other_config = dict(other_config or {})  # keys that mean nothing here but are kept for others
        # Length is the business of formats and collators; a saved limit would silently drop text.
        backend.no_truncation()
        backend.no_padding()
        known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        wanted = (*self.special_tokens.values(), *self.extra_special_tokens)
        missing = [token for token in dict.fromkeys(wanted) if token not in known]
        backend.add_special_tokens(
            [tokenizers.AddedToken(token, special=True, normalized=False) for token in missing]
        )

    # Loading and saving

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a Hugging Face folder with a ``tokenizer.json``; ``CheckpointError`` where that fails."""
        folder = Path(folder)
        config = files.read_config(folder)
        backend = files.read_backend(folder, config)
        templates = files.take_templates(folder, config)
        special = {role: files.text_of(token) for role in ROLES if (token := config.pop(role, None))}
        extra = []
        for key in ("additional_special_tokens", "extra_special_tokens"):
            if isinstance(config.get(key), list):  # a mapping names parts of one model; it is kept as it is
                extra += [files.text_of(token) for token in config.pop(key)]
        limit = config.pop("model_max_length", None)
        return cls(
            backend,
            special_tokens=special,
            extra_special_tokens=tuple(dict.fromkeys(extra)),
            chat_templates=templates,
            model_max_length=int(limit) if limit and limit < 1e9 else None,  # upstream writes 1e30 for "none"
            other_config=config,
        )

    def files(self) -> dict[str, bytes]:
        """The files of this tokenizer, name to content; the same tokenizer always gives the same bytes."""
        config = {**self._other_config, "tokenizer_class": "PreTrainedTokenizerFast"}
        tokens: dict[str, Any] = dict(self.special_tokens)
        if self.extra_special_tokens:
            tokens["additional_special_tokens"] = list(self.extra_special_tokens)
        if self.model_max_length is not None:
            config["model_max_length"] = self.model_max_length
        content = {
            "tokenizer.json": self.backend.to_str(pretty=True).encode(),
            "tokenizer_config.json": files.json_bytes(config | tokens),
            "special_tokens_map.json": files.json_bytes(tokens),
        }
        for name, source in sorted(self.chat_templates.items()):
            content[files.template_path(name)] = source.encode()
        return content

    def save(self, target: str | Path | Callable[[str], BinaryIO]) -> None:
        """Write the files into a folder, or through ``target(relative path)`` that opens a binary writer."""
        for name, content in self.files().items():
            if callable(target):
                writer = target(name)
            else:
                path = Path(target, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = path.open("wb")
            with writer:
                writer.write(content)

    def fingerprint(self) -> str:
        """sha256 of the names and contents of ``files()``: equal means same ids, parts and templates."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files().items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    def with_chat_template(self, template: str) -> Tokenizer:
        """The same tokenizer with this chat template: a name of ``processors.templates`` or a file.

        ``ConfigError`` where a named template spells out special tokens that this tokenizer does not have.
        """
        source = templates.source(template)
        kit = templates.TEMPLATES.get(template, templates.PLAIN)
        absent = [token for token in kit.markers if token not in self.special_texts]
        absent += [
            role for role in ("bos_token", "eos_token") if role in source and role not in self.special_tokens
        ]
        if absent:
            raise ConfigError(
                f"processor.chat_template: {template!r} needs {', '.join(absent)}, which the tokenizer "
                "lacks; choose another template, or a tokenizer trained for this one."
            )
        return Tokenizer(
            self.backend,
            special_tokens=self.special_tokens,
            extra_special_tokens=self.extra_special_tokens,
            chat_templates={"default": source},
            model_max_length=self.model_max_length,
            other_config=self._other_config,
        )

    # Text and ids

    def __len__(self) -> int:
        """The number of tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self.backend.id_to_token(token_id)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of ``text``; special tokens spelled out in it are parsed, as everywhere in the field."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """``encode`` of many texts, the fast way (no offsets are computed)."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Encodings of the bare texts, special tokens parsed and none added, with character offsets."""
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    def encode_literally(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """``encode_batch``, but a special token spelled out in a text stays text: data cannot forge one."""
        self.backend.encode_special_tokens = True
        try:
            return self.encode_batch(texts, add_special_tokens)
        finally:
            self.backend.encode_special_tokens = False

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ``ids``; special tokens are shown unless skipped."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    @cached_property
    def special_texts(self) -> frozenset[str]:
        """Every special token's text, reserved ones included."""
        return frozenset(t.content for t in self.backend.get_added_tokens_decoder().values() if t.special)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of ``special_texts``."""
        return frozenset(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def leading_ids(self) -> tuple[int, ...]:
        """What ``encode`` puts before every text by itself: the BOS token for many models, else nothing."""
        whole, bare = self.encode("a"), self.encode("a", add_special_tokens=False)
        starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        if not starts:
            raise CheckpointError(
                "The tokenizer's post-processor changes the tokens of a text instead of adding some."
            )
        return tuple(whole[: starts[0]])
