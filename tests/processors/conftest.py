"""A small trained tokenizer for each template, real rows, and the same tokenizers opened by the oracle."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from processors import ChatDocuments, ChatFormat, Tokenizer, TrainOptions, train_bpe

DATA = Path(__file__).parents[2] / "recipes" / "data"

# Text that is hard on offsets and masks: several bytes a character, joiners, combining marks, right to left.
PIECES = [
    *(
        "hello",
        "a b",
        "Ünïcödé",
        "😀",
        "👩‍👩‍👧",
        "漢字かな",
        "e\u0301",
        "שלום",
        "\t",
        "\n",
        "\n\n",
        " ",
        "  ",
        "1,234.5",
    ),
    *(
        "{{ x }}",
        "{% if %}",
        "'quotes\"",
        "<b>",
        "\\n",
        "\u200b",
        "…",
        "user",
        "assistant",
        ":",
        "\u00a0",
        "🏳️‍🌈",
    ),
]


def random_text(rng: random.Random, pieces: list[str] = PIECES) -> str:
    return (
        "x"
        + "".join(rng.choice(pieces) for _ in range(rng.randint(0, 9)))
        + rng.choice(["y", "😀", "字", "."])
    )


def random_messages(
    rng: random.Random, exchanges: int | None = None, system: bool | None = None
) -> list[dict]:
    messages = []
    if rng.random() < 0.4 if system is None else system:
        messages.append({"role": "system", "content": random_text(rng)})
    for _ in range(exchanges or rng.randint(1, 4)):
        messages.append({"role": "user", "content": random_text(rng)})
        messages.append({"role": "assistant", "content": random_text(rng)})
    return messages


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    with (DATA / "chat" / "train.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def tokenizer_for(rows):
    """``tokenizer_for(template name or None)``: trained on the sample conversations, made once."""
    made: dict[str | None, Tokenizer] = {}

    def get(name: str | None) -> Tokenizer:
        if name not in made:
            texts = (text for row in rows for text in ChatDocuments.texts(ChatFormat(), row))
            made[name] = train_bpe(texts, TrainOptions(vocab_size=1024), name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def oracle_for(tokenizer_for, tmp_path_factory):
    """``oracle_for(name)``: the same tokenizer as the reference library loads it from our folder."""
    import transformers

    made = {}

    def get(name: str | None):
        if name not in made:
            folder = tmp_path_factory.mktemp(f"tokenizer-{name}")
            tokenizer_for(name).save(folder)
            made[name] = transformers.AutoTokenizer.from_pretrained(folder)
        return made[name]

    return get


@pytest.fixture
def make_messages():
    return random_messages


@pytest.fixture
def make_text():
    return random_text


@pytest.fixture
def build(tokenizer_for, tmp_path):
    """``build(template, bos=, eos=, extra=, ...)``: ours and the oracle's tokenizer with these parts."""
    import transformers

    def make(template: str | dict[str, str], *, bos=None, eos="<eos>", extra=(), add_bos=False, rstrip=()):
        backend = tokenizers.Tokenizer.from_str(tokenizer_for(None).backend.to_str())
        special = [token for token in (bos, eos, *extra) if token]
        backend.add_special_tokens(
            [tokenizers.AddedToken(t, special=True, rstrip=t in rstrip) for t in special]
        )
        if add_bos:
            backend.post_processor = tokenizers.processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
            )
        parts = {"bos_token": bos, "eos_token": eos}
        ours = Tokenizer(
            backend,
            special_tokens={role: token for role, token in parts.items() if token},
            extra_special_tokens=extra,
            chat_templates=template if isinstance(template, dict) else {"default": template},
        )
        ours.save(tmp_path / "built")
        return ours, transformers.AutoTokenizer.from_pretrained(tmp_path / "built")

    return make


def targets_of(document, tokenizer) -> list[str]:
    """The text of each stretch of targets."""
    ids, mask = document["input_ids"], document["loss_mask"]
    borders = [0, *(np.flatnonzero(np.diff(mask)) + 1), len(ids)]
    return [tokenizer.decode(ids[a:b].tolist()) for a, b in itertools.pairwise(borders) if mask[a]]


@pytest.fixture
def learned():
    return targets_of
