"""A tokenizer as models carry it: the fast tokenizer, its special tokens and its chat templates.

The files are the usual ones of a Hugging Face folder: ``tokenizer.json`` (all that decides ids),
``tokenizer_config.json`` and ``special_tokens_map.json`` (which token plays which part),
``chat_template.jinja`` and ``additional_chat_templates/*.jinja``. Where they disagree about how a text starts
and ends, ``tokenizer.json`` wins. What a tokenizer does stands by concern: ``special_tokens``, ``vocabulary``
(ids to text), ``calling`` (texts to inputs), ``sequences`` (ids to inputs), ``padding``, ``chat``.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar, Self

import tokenizers

from conf.errors import ConfigError
from processors import templates
from processors.tokenizers import files
from processors.tokenizers.chat import Chatting
from processors.tokenizers.kinds.surroundings import begin_and_end
from processors.tokenizers.lengths import NO_LIMIT, check_side
from processors.tokenizers.special_tokens import ROLES, Token
from processors.tokenizers.vocabulary import Vocabulary

# What a saved configuration says of how a tokenizer is used, and the values that are not worth saving.
_SETTINGS: dict[str, Any] = {
    "padding_side": "right",
    "truncation_side": "right",
    "model_input_names": ["input_ids", "attention_mask"],
    "clean_up_tokenization_spaces": False,
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": False,
    "split_special_tokens": False,
}
_EXTRA = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")


class Tokenizer(Chatting, Vocabulary):
    """Text to ids and back, with the special tokens and chat templates that belong to a model.

    ``special_tokens`` maps ``bos_token``, ``eos_token``, ... to their text; names beyond the common ones
    become attributes (``image_token``, ``image_token_id``). ``extra_special_tokens`` are special without a
    part of their own; a mapping of them is more names. ``chat_templates`` maps names to Jinja sources,
    ``default`` being the usual one. Tokens that ``backend`` does not know as special are added to it.
    """

    is_fast = True
    # The class that the files name, for those who read them.
    tokenizer_class: ClassVar[str] = "PreTrainedTokenizerFast"
    # Settings beyond the usual ones that ``from_pretrained`` of a subclass takes.
    own_settings: ClassVar[frozenset[str]] = frozenset()
    # The sentencepiece model of the folder that this was read from, by its name: saved again as it is.
    original_files: Mapping[str, bytes] = MappingProxyType({})

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, Token],
        extra_special_tokens: Sequence[Token] | Mapping[str, Token] = (),
        chat_templates: Mapping[str, str] | None = None,
        model_max_length: int | None = None,
        other_config: Mapping[str, Any] | None = None,
    ):
        # Lengths are the business of calls, formats and collators; a saved one would silently drop text.
        backend.no_truncation()
        backend.no_padding()
        if backend.post_processor is None:  # without one, padding would count as tokens of the text
            begin_and_end(backend, None, None)
        super().__init__(backend, special_tokens, extra_special_tokens)
        self.chat_templates = dict(chat_templates or {})
        self.model_max_length = NO_LIMIT if model_max_length is None else model_max_length
        self.name_or_path = ""
        self._other_config = dict(other_config or {})  # keys that mean nothing here but are kept for others
        for name in _SETTINGS.keys() & self._other_config.keys():
            setattr(self, name, self._other_config[name])
        self.model_input_names = list(self.model_input_names)
        check_side("padding_side", self.padding_side)
        check_side("truncation_side", self.truncation_side)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"added_tokens={self.added_tokens_encoder})"
        )

    # Loading and saving

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a Hugging Face folder with a tokenizer; ``CheckpointError`` where that fails.

        Its ``tokenizer.json`` is taken as it is; without one, the tokenizer is built around its vocabulary.
        """
        return cls.from_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> Self:
        """``load``, with ``changes`` to what the folder says: special tokens, settings, templates.

        Keys are those of ``tokenizer_config.json``: ``pad_token=``, ``extra_special_tokens=``,
        ``padding_side=``, ``model_max_length=``, ``chat_template=``, ``add_bos_token=``, ... ``ConfigError``
        for others.
        """
        folder = Path(folder)
        _check_changes(changes, cls.own_settings)
        config = files.read_config(folder)
        settable = {"add_bos_token", "add_eos_token"} - cls.own_settings
        ends = {name: changes.pop(name) for name in sorted(settable) if name in changes}
        backend = cls._read_backend(folder, config, changes)
        chat_templates = files.take_templates(folder, config)
        config |= changes
        if changed := config.pop("chat_template", None):
            chat_templates = dict(changed) if isinstance(changed, Mapping) else {"default": changed}
        limit = config.pop("model_max_length", None)
        special, extra = _take_special_tokens(config)
        found = cls._of(
            backend,
            special_tokens=special,
            extra_special_tokens=extra,
            chat_templates=chat_templates,
            model_max_length=int(limit) if limit and limit < 1e9 else None,  # upstream writes 1e30 for "none"
            other_config=config,
        )
        found.name_or_path = str(folder)
        found.original_files = files.original_files(folder)
        for name, value in ends.items():
            setattr(found, name, value)
        return found

    @classmethod
    def _read_backend(
        cls, folder: Path, config: dict[str, Any], changes: Mapping[str, Any]
    ) -> tokenizers.Tokenizer:
        """The Rust tokenizer of a folder; where a subclass differs from ``files.read_backend``."""
        return files.read_backend(folder, config)

    @classmethod
    def _of(cls, backend: tokenizers.Tokenizer, **parts: Any) -> Self:
        """One with these arguments of ``Tokenizer``, also where those of a subclass are others."""
        return cls(backend, **parts)

    def files(self) -> dict[str, bytes]:
        """The files of this tokenizer, name to content; the same tokenizer always gives the same bytes."""
        config = {**self._config(), "tokenizer_class": self.tokenizer_class}
        content = {
            "tokenizer.json": self.backend.to_str(pretty=True).encode(),
            "tokenizer_config.json": files.json_bytes(config),
            "special_tokens_map.json": files.json_bytes(self._token_map()),
            **self.original_files,
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

    def save_pretrained(
        self, save_directory: str | Path, filename_prefix: str | None = None, save_jinja_files: bool = True
    ) -> tuple[str, ...]:
        """Write the files into a folder and tell their paths.

        ``filename_prefix`` goes before each name, with a hyphen. ``save_jinja_files=False`` puts chat
        templates into ``tokenizer_config.json``, where older programs look for them.
        """
        folder, prefix = Path(save_directory), f"{filename_prefix}-" if filename_prefix else ""
        content = self.files()
        if not save_jinja_files:
            content = {name: data for name, data in content.items() if not name.endswith(".jinja")}
            config, _ = self.save_chat_templates(folder, self._config(), save_jinja_files=False)
            content["tokenizer_config.json"] = files.json_bytes(
                {**config, "tokenizer_class": self.tokenizer_class}
            )
        written = []
        for name, data in content.items():
            path = folder / f"{prefix}{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            written.append(str(path))
        return tuple(written)

    def save_vocabulary(
        self, save_directory: str | Path, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the model's vocabulary in its old form (``vocab.txt``, or ``vocab.json`` and ``merges.txt``).

        Tells the paths. Added tokens are not in it.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        return tuple(self.backend.model.save(str(folder), filename_prefix))

    def fingerprint(self) -> str:
        """sha256 of the names and contents of ``files()``: equal means same ids, parts and templates."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files().items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str | Sequence[str]],
        vocab_size: int,
        new_special_tokens: Sequence[Token] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Self:
        """A tokenizer of the same class and pipeline, with pieces for other texts (or batches of them).

        ``special_tokens_map`` renames special tokens, ``new_special_tokens`` are extra ones, ``options`` are
        those of the trainer of this kind in the ``tokenizers`` library.
        """
        from processors.tokenizers.train import train_new_from_iterator  # it makes tokenizers itself

        return train_new_from_iterator(
            self, text_iterator, vocab_size, new_special_tokens, special_tokens_map, **options
        )

    def with_chat_template(self, template: str) -> Self:
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
                "lacks; choose another template, none (null) for data without chats, or a tokenizer trained "
                "for this one."
            )
        changed = copy.copy(self)
        changed.chat_templates = {"default": source}
        return changed

    def _config(self) -> dict[str, Any]:
        """What ``tokenizer_config.json`` says, but for the class."""
        config = {**self._other_config, **self._token_map()}
        for name, usual in _SETTINGS.items():
            value = getattr(self, name)
            if name in self._other_config or value != usual:
                config[name] = value
        if self.model_max_length < 1e9:
            config["model_max_length"] = self.model_max_length
        if named := {part: token for part, token in self.special_tokens.items() if part not in ROLES}:
            config["extra_special_tokens"] = named
        return config

    def _token_map(self) -> dict[str, Any]:
        """What ``special_tokens_map.json`` says."""
        tokens: dict[str, Any] = {role: token for role, token in self.special_tokens.items() if role in ROLES}
        if self._extra:
            tokens["additional_special_tokens"] = self.extra_special_tokens
        return tokens


def _take_special_tokens(config: dict[str, Any]) -> tuple[dict[str, Token], list[Token]]:
    """The named and the extra special tokens of a configuration, taken out of it."""
    named = [key for key, value in config.items() if key.endswith("_token") and _is_token(value)]
    special = {key: _token(config.pop(key)) for key in named}
    extra: list[Token] = []
    for key in _EXTRA:
        tokens = config.pop(key, None) or ()
        if isinstance(tokens, Mapping):
            special |= {part: _token(token) for part, token in tokens.items()}
        else:
            extra += [_token(token) for token in tokens]
    for part in (*ROLES, *special):
        config.pop(part, None)  # there but null, or said twice
    return special, extra


def _token(value: Any) -> Token:
    return value if isinstance(value, tokenizers.AddedToken) else files.text_of(value)


def _is_token(value: Any) -> bool:
    return isinstance(value, str | tokenizers.AddedToken) or (
        isinstance(value, Mapping) and "content" in value
    )


def _check_changes(changes: Mapping[str, Any], own: frozenset[str]) -> None:
    known = {*_SETTINGS, *_EXTRA, *own, "model_max_length", "chat_template"}
    unknown = [key for key in changes if key not in known and not key.endswith("_token")]
    if unknown:
        raise ConfigError(
            f"from_pretrained: there is no {', '.join(unknown)}; one of {', '.join(sorted(known))}, or a "
            "special token such as pad_token would do."
        )
