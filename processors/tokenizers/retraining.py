"""A tokenizer like a given one for other texts: the same pipeline and special tokens, new pieces.

Source: ``train_new_from_iterator`` of the reference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, trainers

from conf.errors import ConfigError
from processors.tokenizers.kinds import byte_fallback, byte_level, unigram, wordpiece
from processors.tokenizers.kinds.alphabet import characters_of

_BYTE_LEVEL = '"type": "ByteLevel"'


def retrained(
    backend: tokenizers.Tokenizer,
    texts: Iterable[str | Sequence[str]],
    vocab_size: int,
    *,
    new_special_tokens: Sequence[str | AddedToken] = (),
    special_tokens_map: Mapping[str, str] | None = None,
    **options: Any,
) -> tokenizers.Tokenizer:
    """A tokenizer of the kind of ``backend`` for ``texts`` (texts, or batches of them); the same every time.

    The special tokens come first, as ``special_tokens_map`` renames them, then ``new_special_tokens``.
    ``options``: ``min_frequency`` where pieces are merged, and for byte-level BPE and whole words all that
    the library's trainer takes. The kind of Llama keeps its 256 bytes, and its pieces end where words do.
    Raises ``ConfigError`` for a model of another kind, and where the post-processor names a token that no
    longer exists.
    """
    names = dict(special_tokens_map or {})
    flat = [text for item in texts for text in ([item] if isinstance(item, str) else item)]
    content = json.loads(backend.to_str())
    post, added = content["post_processor"], content["added_tokens"]
    kept = [t for t in added if t["special"] or content["model"]["type"] == "Unigram"]
    special = [_renamed(token, names) for token in kept]
    special += [_special(token) for token in new_special_tokens]
    content |= {"post_processor": None, "added_tokens": []}
    content["model"] = _trained(content, flat, vocab_size, [t.content for t in special], names, options)
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    made.add_special_tokens(special)
    if post is None:
        return made
    content = json.loads(made.to_str()) | {"post_processor": _with_ids(post, made, names)}
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _trained(
    content: Mapping[str, Any],
    texts: Sequence[str],
    vocab_size: int,
    special: Sequence[str],
    names: Mapping[str, str],
    options: dict[str, Any],
) -> dict[str, Any]:
    """The model of ``content`` with the pieces for ``texts``, as ``tokenizer.json`` writes it."""
    model = dict(content["model"])
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if model["type"] == "Unigram":
        return model | _unigram(content, texts, vocab_size, special, names)
    if model["type"] == "BPE" and model["byte_fallback"]:
        merging = {"min_frequency": 0, "character_coverage": 1.0, **options}
        ids, merges = byte_fallback.train(texts, vocab_size=vocab_size, special=special, **merging)
        return model | {"vocab": ids, "merges": merges}
    if model["type"] not in ("BPE", "WordLevel", "WordPiece"):
        raise ConfigError(f"train_new_from_iterator: a {model['type']} model cannot be trained.")
    empty = model | {"vocab": {}} | ({"merges": []} if model["type"] == "BPE" else {})
    learner = tokenizers.Tokenizer.from_str(json.dumps({**content, "model": empty}))
    if model["type"] == "WordPiece":
        merging = {"min_frequency": 0, "character_coverage": 1.0, **options}
        ids = wordpiece.train(learner, texts, vocab_size=vocab_size, special=special, **merging)
        return model | {"vocab": ids}
    asked = {"vocab_size": vocab_size, "special_tokens": list(special), "show_progress": False, **options}
    if model["type"] == "WordLevel":
        learner.train_from_iterator(texts, trainers.WordLevelTrainer(**asked))
    else:
        for part in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model[part] is not None:
                asked.setdefault(part, model[part])
        if _BYTE_LEVEL in json.dumps(content["pre_tokenizer"]):
            asked["initial_alphabet"] = list(byte_level.ALPHABET)
        learner.train_from_iterator(texts, trainers.BpeTrainer(**asked))
    return json.loads(learner.to_str())["model"]


def _unigram(
    content: Mapping[str, Any],
    texts: Sequence[str],
    vocab_size: int,
    special: Sequence[str],
    names: Mapping[str, str],
) -> dict[str, Any]:
    model = content["model"]
    old = model["vocab"][model["unk_id"] or 0][0]
    unknown = names.get(old, old)
    first = special if unknown in special else [unknown, *special]
    seed = model | {"vocab": [[unknown, 0.0]], "unk_id": 0}
    learner = tokenizers.Tokenizer.from_str(json.dumps({**content, "model": seed}))
    alphabet = characters_of(texts, learner.normalizer, 1.0)
    scores = unigram.train(
        learner, texts, vocab_size=vocab_size, alphabet=alphabet, special=first, unk_token=unknown
    )
    return {"vocab": scores, "unk_id": list(first).index(unknown)}


def _renamed(token: Mapping[str, Any], names: Mapping[str, str]) -> AddedToken:
    flags = {flag: token[flag] for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(names.get(token["content"], token["content"]), special=True, **flags)


def _special(token: str | AddedToken) -> AddedToken:
    return AddedToken(token, special=True, normalized=False) if isinstance(token, str) else token


def _with_ids(
    post: Mapping[str, Any], backend: tokenizers.Tokenizer, names: Mapping[str, str]
) -> dict[str, Any]:
    """A post-processor with the new names and ids of its tokens, those inside a sequence of them too."""

    def named(token: str) -> tuple[str, int]:
        token = names.get(token, token)
        token_id = backend.token_to_id(token)
        if token_id is None:
            raise ConfigError(
                f"train_new_from_iterator: {token!r}, put around texts, is not in the vocabulary."
            )
        return token, token_id

    made = dict(post)
    if "processors" in post:
        made["processors"] = [_with_ids(one, backend, names) for one in post["processors"]]
    for part in {"cls", "sep"} & post.keys():
        made[part] = list(named(post[part][0]))
    if "special_tokens" in post:
        made["special_tokens"] = {
            key: {
                **entry,
                "tokens": [named(token)[0] for token in entry["tokens"]],
                "ids": [named(token)[1] for token in entry["tokens"]],
            }
            for key, entry in post["special_tokens"].items()
        }
    return made
