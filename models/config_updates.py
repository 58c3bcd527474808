"""Changes to a model's configuration, judged before a new one is made of them.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from conf.errors import ConfigError
from conf.plugins import nearest

# What generates takes these; files of older versions have them among a model's facts.
GENERATION_SETTINGS = frozenset(
    """
    assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens diversity_penalty
    do_sample early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length
    max_new_tokens min_length min_new_tokens min_p no_repeat_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences output_scores
    remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens target_lookbehind
    temperature top_k top_p typical_p
    """.split()  # noqa: SIM905 - forty lines otherwise
)
TRUE, FALSE = ("true", "1", "y", "yes"), ("false", "0", "n", "no")


def field_names(config: Any) -> set[str]:
    """The fields of a configuration, an instance or its class, that can be given."""
    return {field.name for field in fields(config)} - {"extra"}


def refuse_unknown(config: Any, names: Iterable[str]) -> None:
    """``ConfigError`` that names each of ``names`` that is no field, and what would do."""
    known = field_names(config)
    kind = config if isinstance(config, type) else type(config)
    problems = [f"{kind.__name__}.{_wrong(name, known)}" for name in names if name not in known]
    if problems:
        raise ConfigError(problems)


def _wrong(name: str, known: set[str]) -> str:
    if name in GENERATION_SETTINGS:
        return (
            f"{name}: is a setting of generation and no fact of a model; give it where text is generated, or "
            "put it into generation_config.json"
        )
    return f"{name}: no such field; {nearest(name, known)}"


def changes_of_text(config: Any, text: str) -> dict[str, Any]:
    """``"hidden_size=64,use_cache=false"`` as changes, each value of the type of the one it replaces.

    Truth is true, 1, y or yes, untruth false, 0, n or no. ``ConfigError`` for anything else.
    """
    changes = {}
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"{item!r}: a change is written as field=value")
        changes[name] = value
    refuse_unknown(config, changes)
    real = {field.name for field in fields(config) if "float" in str(field.type)}  # a file may say 0 for 0.0
    return {name: _read(name, value, getattr(config, name), name in real) for name, value in changes.items()}


def _read(name: str, text: str, old: Any, is_real: bool) -> Any:
    if isinstance(old, bool):
        if text.lower() not in (*TRUE, *FALSE):
            raise ConfigError(f"{name}: {text!r} is neither true nor false")
        return text.lower() in TRUE
    if not isinstance(old, int | float | str):
        raise ConfigError(f"{name}: only numbers, true or false, and text can be changed by text")
    kind = float if is_real and isinstance(old, int) else type(old)
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{name}: {text!r} was given where {kind.__name__} is wanted") from None


def with_labels(config: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` and what follows of the labels: names give their number, another number has no names."""
    if (names := changes.get("id2label")) is not None:
        return {"num_labels": len(names), "label2id": None, **changes}
    if "id2label" in changes or changes.get("num_labels", config.num_labels) == config.num_labels:
        return dict(changes)
    return {"id2label": None, "label2id": None, **changes}
