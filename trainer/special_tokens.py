"""The tokenizer's special tokens, written into the model that is trained with it.

Otherwise a chat model that learned to end its turns with a new token would never stop: what generates looks
into the model's configurations, and not at the tokenizer.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from models.config import ModelConfig

ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")


def align_special_tokens(model: Any, processor: Any) -> str | None:
    """Give the model's configurations the ids of the tokenizer where they differ; a sentence on what changed.

    The end tokens that a generation configuration had stay, after the tokenizer's. Source: the Trainer of the
    reference does the same before training.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    config = getattr(model, "config", None)
    if config is None or tokenizer is None:
        return None
    wanted = {role: getattr(tokenizer, role, None) for role in ROLES}
    is_own = isinstance(config, ModelConfig)
    known = {field.name for field in fields(config)} if is_own else set(ROLES)
    changed = {
        role: token
        for role, token in wanted.items()
        if token is not None and role in known and not _begins_with(getattr(config, role, None), token)
    }
    if is_own:
        model.config = replace(config, **changed)
    else:
        for role, token in changed.items():
            setattr(config, role, token)
        changed |= _align_generation(getattr(model, "generation_config", None), wanted)
    listed = ", ".join(f"{role}={token}" for role, token in changed.items())
    said = f"the tokenizer's special tokens differ from the model's; its configuration now has {listed}."
    return said if changed else None


def _begins_with(own: Any, token: int) -> bool:
    """Whether the model's id, or the first of its list of ids, is the tokenizer's."""
    return (own[0] if isinstance(own, list | tuple) and own else own) == token


def _align_generation(generation: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """The same for what generates; an end token that is among several may stay where it is."""
    changed: dict[str, Any] = {}
    for role, token in wanted.items():
        before = getattr(generation, role, None)
        listed = list(before) if isinstance(before, list | tuple) else [] if before is None else [before]
        if generation is None or token is None or token in listed:
            continue
        changed[role] = token
        setattr(generation, role, [token, *listed] if role == "eos_token_id" else token)
    return changed
