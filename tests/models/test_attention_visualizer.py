"""The picture of what a token sees, against the weights that attention really gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch
from torch import Tensor

from conf.errors import ConfigError
from models import LlamaConfig, build_model
from models.afmoe import AfmoeConfig
from models.attention_visualizer import HIDDEN, SEEN, AttentionMaskVisualizer
from models.bert import BertConfig
from models.config import ModelConfig

IDS = [5, 6, 7, 8, 9, 10, 11]
INPUTS = {
    "whole": {},
    "left": {"attention_mask": [0, 0, 1, 1, 1, 1, 1]},
    "right": {"attention_mask": [1, 1, 1, 1, 1, 0, 0]},
    "packed": {"cu_seqlens": [0, 4, 7]},
}
CONFIGS: dict[str, ModelConfig] = {
    "llama": LlamaConfig.preset("tiny"),
    "afmoe": AfmoeConfig.preset("tiny", sliding_window=3),
    "bert": BertConfig.preset("tiny"),
    "bert-decoder": BertConfig.preset("tiny", is_decoder=True),
}


def grids(picture: str) -> list[Tensor]:
    """The squares of each picture, true where one is seen."""
    parts = [part.splitlines() for part in picture.split("\n\n")[1:]]
    squares = [
        [line.split()[-len(IDS) :] for line in part if SEEN in line or HIDDEN in line] for part in parts
    ]
    return [torch.tensor([[square == SEEN for square in row] for row in grid]) for grid in squares]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("kind", INPUTS)
def test_the_picture_shows_where_attention_has_weight(family: str, kind: str) -> None:
    config, given = CONFIGS[family], INPUTS[kind]
    visualizer = AttentionMaskVisualizer(config, colour=False)
    shown = grids(visualizer.picture(IDS, **given))
    inputs = {name: torch.tensor(value) for name, value in given.items()}
    if "attention_mask" in inputs:
        inputs["attention_mask"] = inputs["attention_mask"][None]
    model = build_model(config, None, attn_implementation="eager", seed=0).eval()
    attentions = model(torch.tensor([IDS]), **inputs, output_attentions=True).attentions
    real = inputs.get("attention_mask", torch.ones(1, len(IDS)))[0].bool()
    expected = [weights[0, 0] > 0 for weights in attentions]
    windows = getattr(config, "windows", (None,) * len(expected))
    assert len(shown) == len(set(windows))
    for window, grid in zip(dict.fromkeys(windows), shown, strict=True):
        layer = windows.index(window)
        assert torch.equal(grid[real], expected[layer][real])
        assert not grid[~real].any()


def test_a_folder_splits_texts_by_its_own_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LlamaConfig.preset("tiny").save_pretrained(tmp_path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="text: there is no tokenizer to split it, give Attention"):
        AttentionMaskVisualizer(tmp_path)("a b c")
    words.save(str(tmp_path / "tokenizer.json"))
    AttentionMaskVisualizer(tmp_path)("a b c")
    assert capsys.readouterr().out.splitlines() == [
        "Attention of llama: ■ is seen, ⬚ is not",
        "",
        "In every layer a token sees itself and what is before it:",
        "       0 1 2",
        "'a' 0  ■ ⬚ ⬚",
        "'b' 1  ■ ■ ⬚",
        "'?' 2  ■ ■ ■",
    ]
    with pytest.raises(ConfigError, match="text: holds no token"):
        AttentionMaskVisualizer(tmp_path)("")
    assert "\033[92m■\033[0m" in AttentionMaskVisualizer(tmp_path, colour=True).picture("a")
