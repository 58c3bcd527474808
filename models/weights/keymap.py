"""Between our parameter names and a checkpoint's, both ways, from tables.

Two sides: *names* are ours (``backbone.layers.0.mlp.up_proj.weight``, ``head.weight``), *keys* are the
checkpoint's (``model.layers.0.mlp.up_proj.weight``, ``lm_head.weight``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from models.weights.conversion import WeightConverter, WeightRenaming

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class KeyMap:
    """Prefix renames; of those that fit the one with the longest prefix applies, in either direction.

    ``renames``: pairs (prefix of the name, prefix of the key).
    ``legacy``: pairs (prefix of the key, prefix of the name) for other spellings, as bare or older files have
    them; they are read and never written. ``old_endings``: pairs (ending of the key, today's), likewise.
    ``ignored``: full-match regular expressions of keys that hold nothing to load (tables computed from the
    config). ``converters``: how files lay tensors out in another way than memory; the keys here are those of
    memory's layout. ``ValueError`` for renames that cannot be run backwards.
    """

    renames: Pairs
    legacy: Pairs = ()
    old_endings: Pairs = ()
    ignored: tuple[str, ...] = ()
    converters: tuple[WeightRenaming | WeightConverter, ...] = ()

    def __post_init__(self) -> None:
        names = [ours for ours, _ in self.renames]
        keys = [theirs for _, theirs in self.renames] + [theirs for theirs, _ in self.legacy]
        for prefixes in (names, keys):
            twice = sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})
            if twice:
                raise ValueError(f"ambiguous renames: the prefix {twice[0]!r} stands for more than one")

    def to_checkpoint(self, name: str) -> str:
        """The key under which a parameter is saved; ``ValueError`` if no rename fits, or none leads back."""
        key = _longest(self.renames, name)
        if key is None:
            raise ValueError(f"no rename fits the parameter {name!r}")
        back = self.from_checkpoint(key)
        if back != name:
            raise ValueError(f"ambiguous renames: {name!r} is saved as {key!r}, which is read as {back!r}")
        return key

    def from_checkpoint(self, key: str) -> str | None:
        """The name that a key is for, or None; whether a model has such a parameter is not asked."""
        for old, new in self.old_endings:
            if key.endswith(old):
                key = key.removesuffix(old) + new
        return _longest([(theirs, ours) for ours, theirs in self.renames] + list(self.legacy), key)

    def ignores(self, key: str) -> bool:
        """Whether a key holds nothing to load and is not worth a report."""
        return any(re.fullmatch(pattern, key) for pattern in self.ignored)


def _longest(pairs: Iterable[tuple[str, str]], text: str) -> str | None:
    fitting = [(old, new) for old, new in pairs if text.startswith(old)]
    if not fitting:
        return None
    old, new = max(fitting, key=lambda pair: len(pair[0]))
    return new + text[len(old) :]
