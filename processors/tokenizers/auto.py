"""The tokenizer class that a folder asks for, found by the names in its files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from conf.errors import ConfigError
from conf.hub_files import HubOptions, folder_of
from conf.plugins import resolve
from processors.tokenizers import building, files
from processors.tokenizers.tokenizer import Tokenizer

CLASSES = {
    "AlbertTokenizer": "processors.tokenizers.albert:AlbertTokenizer",
    "BertTokenizer": "processors.tokenizers.bert:BertTokenizer",
    "BertTokenizerLegacy": "processors.tokenizers.bert_legacy:BertTokenizerLegacy",
    "LlamaTokenizer": "processors.tokenizers.llama:LlamaTokenizer",
    "XLMRobertaTokenizer": "processors.tokenizers.xlm_roberta:XLMRobertaTokenizer",
}
# What of a repository a tokenizer is made of.
_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_HUB_OPTIONS = tuple(option.name for option in fields(HubOptions))


class AutoTokenizer:
    """Not made itself: ``from_pretrained`` gives a tokenizer of the class that the files name."""

    # Model type, or name of a tokenizer class, to class: what ``register`` was told.
    _registered: ClassVar[dict[str, type[Tokenizer]]] = {}

    def __init__(self) -> None:
        raise TypeError(
            "AutoTokenizer: it is not made itself; AutoTokenizer.from_pretrained(folder) would do."
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        tokenizer_type: str | None = None,
        **changes: Any,
    ) -> Tokenizer:
        """The tokenizer of a folder, or of a repository of the hub by its name (``org/name``).

        Its class is the one of ``tokenizer_type`` (a model type: ``bert``, ``llama``, ...) or the one its
        files name, where the folder's tokenizer is of its kind; ``Tokenizer`` otherwise. ``changes`` are
        ``HubOptions`` and those of ``Tokenizer.from_pretrained``; only a name that is no folder is looked for
        at the hub. Raises ``CheckpointError`` where there is no tokenizer.
        """
        hub = HubOptions(**{name: changes.pop(name) for name in _HUB_OPTIONS if name in changes})
        folder = folder_of(name_or_path, _FILES, hub)
        return cls._class_of(folder, tokenizer_type).from_pretrained(folder, **changes)

    @classmethod
    def register(
        cls,
        config_class: Any,
        tokenizer_class: type[Tokenizer] | None = None,
        slow_tokenizer_class: type[Tokenizer] | None = None,
        fast_tokenizer_class: type[Tokenizer] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Give the models of ``config_class`` (its ``model_type``, or that text itself) this tokenizer.

        One class is enough; of two, the fast one is taken. ``ConfigError`` for a type that has one, unless
        ``exist_ok``.
        """
        model_type = config_class if isinstance(config_class, str) else config_class.model_type
        chosen = tokenizer_class or fast_tokenizer_class or slow_tokenizer_class
        if chosen is None:
            raise ConfigError(f"AutoTokenizer.register: no class was given for {model_type!r}.")
        if model_type in {*cls._registered, *building.MODEL_TYPES} and not exist_ok:
            raise ConfigError(
                f"AutoTokenizer.register: {model_type!r} has a tokenizer; exist_ok=True would replace it."
            )
        cls._registered[model_type] = chosen
        cls._registered[chosen.__name__] = chosen

    @classmethod
    def _class_of(cls, folder: Path, tokenizer_type: str | None) -> type[Tokenizer]:
        if tokenizer_type is not None:
            known = {**building.MODEL_TYPES, **{name: name for name in cls._registered}}
            if tokenizer_type not in known:
                raise ConfigError(
                    f"AutoTokenizer: there is no tokenizer_type {tokenizer_type!r}; known are "
                    f"{', '.join(sorted(known))}."
                )
            return cls._named(known[tokenizer_type])
        config = files.read_config(folder)
        found = cls._named(building.class_of(folder, config))
        if found is Tokenizer:
            found = cls._registered.get(building.model_type_of(folder), found)
        path, family = folder / "tokenizer.json", getattr(found, "family", None)
        if family is not None and path.is_file() and not family.fits(files.read_json(path)):
            return Tokenizer  # such as one of Llama 3 that says it is Llama's
        return found

    @classmethod
    def _named(cls, name: str | None) -> type[Tokenizer]:
        if name in cls._registered:
            return cls._registered[name]
        return resolve(CLASSES[name]) if name in CLASSES else Tokenizer
