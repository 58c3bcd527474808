"""Configurations: read and written as upstream does, judged field by field, without torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import transformers

from conf.decode import decode
from models import CATALOG, AutoConfig, LlamaConfig
from models.config import Activation
from models.layers.mlp import ACTIVATIONS
from models.rope import RopeParameters
from tests.models.oracle import ROPES, raises

FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "tie_word_embeddings",
)


def rope_of(config: transformers.LlamaConfig) -> dict[str, Any]:
    """Upstream's rope settings, without its copies of older keys."""
    return {key: value for key, value in config.rope_parameters.items() if key != "type"}


@pytest.mark.parametrize("rope", ROPES)
def test_round_trip_through_transformers(rope: str, tmp_path: Path) -> None:
    ours = LlamaConfig.preset("tiny", head_dim=8, rope_parameters=ROPES[rope], num_labels=3, dtype="bfloat16")
    ours.save_pretrained(tmp_path)
    theirs = transformers.LlamaConfig.from_pretrained(tmp_path)
    assert all(getattr(theirs, name) == getattr(ours, name) for name in FIELDS)
    assert rope_of(theirs) == ours.rope_parameters.to_dict()
    assert theirs.num_labels == 3
    theirs.save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert dataclasses.replace(back, extra={}, id2label=None, label2id=None) == ours
    assert back.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize(
    "legacy",
    [
        {"rope_theta": 500000.0},
        {"rope_theta": 1000.0, "rope_scaling": None},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 5000.0, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 256},
        {"torch_dtype": "float16", "num_key_value_heads": None, "pretraining_tp": 1},
        {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}},
        {"eos_token_id": [1, 2]},
        {"eos_token_id": None, "bos_token_id": None},
    ],
)
def test_files_of_older_versions_mean_what_they_mean_upstream(legacy: dict[str, Any]) -> None:
    data = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, **legacy}
    ours, theirs = (
        LlamaConfig.from_dict(data),
        transformers.LlamaConfig.from_dict(json.loads(json.dumps(data))),
    )
    theirs.standardize_rope_params()  # as its models do; only this heeds original_max_position_embeddings
    assert all(getattr(theirs, name) == getattr(ours, name) for name in FIELDS)
    assert rope_of(theirs) == ours.rope_parameters.to_dict()
    assert str(theirs.dtype) == f"torch.{ours.dtype}" if ours.dtype else theirs.dtype is None
    assert ours.num_labels == theirs.num_labels
    end = ours.eos_token_id
    assert (list(end) if isinstance(end, tuple) else end) == theirs.eos_token_id
    assert LlamaConfig.from_dict(ours.to_dict()) == ours


def test_keys_that_mean_nothing_here_are_written_back() -> None:
    data = {
        "model_type": "llama",
        "made_by": [1, {"x": 2}],
        "rope_scaling": {"type": "linear", "factor": 2, "fine": 1},
    }
    config = LlamaConfig.from_dict(data)
    assert config.extra == {"made_by": [1, {"x": 2}], "rope_parameters": {"fine": 1}}
    written = config.to_dict()
    assert written["made_by"] == data["made_by"]
    assert written["rope_parameters"] == {
        "rope_type": "linear",
        "rope_theta": 10000.0,
        "factor": 2,
        "fine": 1,
    }
    assert "extra" not in written
    assert LlamaConfig.from_dict(written) == config


def test_defaults_are_upstreams() -> None:
    ours, theirs = LlamaConfig(), transformers.LlamaConfig()
    own = {
        "architectures",
        "dtype",
        "extra",
        "rope_parameters",
        "num_labels",
        "id2label",
        "label2id",
        "problem_type",
    }
    names = {field.name for field in dataclasses.fields(LlamaConfig)} - own
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}
    assert ours.rope_parameters.to_dict() == rope_of(theirs)


def test_presets_are_valid_and_of_the_stated_size() -> None:
    for name, (layers, hidden) in {
        "llama2-7b": (32, 4096),
        "llama3-8b": (32, 4096),
        "tinyllama-1.1b": (22, 2048),
    }.items():
        config = LlamaConfig.preset(name)
        assert (config.num_hidden_layers, config.hidden_size) == (layers, hidden)
    assert LlamaConfig.preset("small", vocab_size=77).vocab_size == 77
    assert (
        raises(lambda: LlamaConfig.preset("smal"))
        == "llama: there is no preset 'smal'; did you mean 'small'?"
    )


def test_user_settings_decode_strictly() -> None:
    config = decode(
        LlamaConfig, {"hidden_size": 128, "rope_parameters": {"rope_type": "linear", "factor": "2"}}
    )
    assert config.rope_parameters == RopeParameters(rope_type="linear", factor=2.0)
    text = raises(
        lambda: decode(LlamaConfig, {"hiden_size": 1, "rope_parameters": {"rope_type": "yarn", "facto": 2}})
    )
    assert "hiden_size: no such key" in text
    assert "rope_parameters.facto: no such key" in text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"num_key_value_heads": 3},
            "num_key_value_heads: 3 does not divide num_attention_heads, which is 32",
        ),
        ({"num_attention_heads": 48}, "num_attention_heads: 48 does not divide hidden_size, which is 4096"),
        ({"head_dim": 7}, "head_dim: rotary embeddings need an even number, got 7"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: must be at least 1, got 0"),
        ({"hidden_act": "silo"}, f"hidden_act: unknown 'silo', known are {', '.join(get_args(Activation))}"),
        ({"attention_dropout": 1.0}, "attention_dropout: must be in [0, 1), got 1.0"),
        ({"pad_token_id": 32000}, "pad_token_id: 32000 is outside the vocabulary of 32000"),
        ({"pretraining_tp": 3}, "pretraining_tp: 3 does not divide all of the widths (4096, 4096, 11008)"),
        ({"hidden_size": "64"}, "hidden_size: a whole number is wanted, '64' was given"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers: a whole number is wanted, 2.0 was given"),
        ({"num_labels": "3"}, "num_labels: a whole number is wanted, '3' was given"),
        ({"rms_norm_eps": True}, "rms_norm_eps: a number is wanted, True was given"),
        ({"use_cache": "yes"}, "use_cache: true or false is wanted, 'yes' was given"),
        ({"eos_token_id": [1, "2"]}, "eos_token_id: a whole number or a list is wanted, [1, '2'] was given"),
        ({"dtype": "fp16"}, "dtype: there is no 'fp16'; known are bfloat16, float16, float32, float64."),
        (
            {"problem_type": "regresion"},
            "problem_type: there is no 'regresion'; did you mean 'regression'?",
        ),
        ({"num_labels": 0}, "num_labels: must be at least 1, got 0"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels: is 3, but id2label has 1 entries"),
        (
            {"num_labels": 1, "problem_type": "single_label_classification"},
            "problem_type: single_label_classification needs num_labels of at least 2; "
            "a single output is problem_type=regression",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1.0] * 64}},
            "rope_parameters.short_factor: needs head_dim / 2 = 64 numbers, got 1",
        ),
    ],
)
def test_impossible_fields_are_named(fields: dict[str, Any], text: str) -> None:
    assert raises(lambda: LlamaConfig(**fields)) == f"LlamaConfig.{text}"


@pytest.mark.parametrize(
    ("rope", "text"),
    [
        ({"rope_type": "linear"}, "factor: rope_type linear needs it"),
        ({"factor": 2.0}, "factor: has no effect with rope_type default"),
        (
            {"rope_type": "lineal"},
            "rope_type: 'lineal' is none of default, linear, dynamic, yarn, longrope, llama3",
        ),
        ({"rope_typ": "linear"}, "rope_typ: no such key; did you mean 'rope_type'?"),
        ({"rope_theta": 0.0}, "rope_theta: must be greater than 0, got 0.0"),
        (
            {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0},
            "high_freq_factor: must be greater than low_freq_factor, 4.0",
        ),
    ],
)
def test_impossible_rope_settings_are_named(rope: dict[str, Any], text: str) -> None:
    assert raises(lambda: LlamaConfig(rope_parameters=rope)) == f"rope_parameters.{text}"


def test_several_problems_are_reported_together() -> None:
    text = raises(lambda: LlamaConfig(head_dim=7, attention_dropout=2.0))
    assert text.splitlines() == [
        "LlamaConfig.head_dim: rotary embeddings need an even number, got 7",
        "LlamaConfig.attention_dropout: must be in [0, 1), got 2.0",
    ]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    assert raises(lambda: AutoConfig.from_pretrained(tmp_path)) == (
        f"{file}: not found; a model folder holds a config.json"
    )
    file.write_text("{")
    assert raises(lambda: AutoConfig.from_pretrained(tmp_path)).startswith(f"{file}: is no valid JSON")
    file.write_text("[]")
    assert raises(lambda: AutoConfig.from_pretrained(tmp_path)) == (
        f"{file}: holds list where a JSON object is expected"
    )
    file.write_text('{"model_type": "lama"}')
    assert raises(lambda: AutoConfig.from_pretrained(tmp_path)) == (
        f"{file}: model_type: there is no 'lama'; did you mean 'llama'?"
    )
    assert "'bert' configuration" in raises(lambda: LlamaConfig.from_dict({"model_type": "bert"}))


def test_activations_and_their_names_agree() -> None:
    assert set(ACTIVATIONS) == set(get_args(Activation))


def test_configurations_need_no_torch() -> None:
    entries = ", ".join(repr(options) for options, _ in CATALOG.values())
    code = (
        "import sys; import models; from conf.plugins import resolve\n"
        f"for entry in ({entries},): resolve(entry).preset('tiny').to_dict()\n"
        "assert models.AutoConfig.from_dict({'model_type': 'llama'})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_modules_import_torch_and_nothing_heavy() -> None:
    code = (
        "import sys; import models.auto, models.llama.model, predictor.generate\n"
        "heavy = {'torchvision', 'rich', 'transformers', 'datasets', 'accelerate', 'torch._dynamo'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
