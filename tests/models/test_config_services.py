"""What can be done with a configuration: files, updates, labels, comparison with the defaults."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from transformers import GenerationConfig

from models import CATALOG, AutoConfig, LlamaConfig
from models.config import ModelConfig, PreTrainedConfig
from models.config_updates import GENERATION_SETTINGS
from tests.models.oracle import raises

SMALL = {"vocab_size": 10, "hidden_size": 8, "num_attention_heads": 2}


def theirs(fields: dict[str, Any]) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**json.loads(json.dumps(fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_labels": 3},
        {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}},
        {"output_hidden_states": True, "return_dict": False, "problem_type": "regression"},
        {"dtype": "bfloat16", "architectures": ["LlamaForCausalLM"], "made_by": "hand"},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10.0}},
    ],
    ids=str,
)
def test_the_file_and_the_whole_are_the_references(fields: dict[str, Any]) -> None:
    fields = {**SMALL, **fields}
    mine, other = LlamaConfig.from_dict(fields), theirs(fields)
    expected = json.loads(other.to_json_string())
    del expected["transformers_version"]
    assert mine.to_diff_dict() == expected
    assert json.loads(mine.to_json_string()) == expected
    expected = json.loads(other.to_json_string(use_diff=False))
    del expected["transformers_version"]
    assert mine.to_dict() == json.loads(mine.to_json_string(use_diff=False)) == expected
    assert LlamaConfig.from_dict(mine.to_dict()) == LlamaConfig.from_dict(mine.to_diff_dict()) == mine


def test_files_and_what_replaces_their_fields(tmp_path: Path) -> None:
    config = LlamaConfig.from_dict({**SMALL, "temperature": 0.5, "_name_or_path": "/home/somebody/model"})
    assert config.extra == {"temperature": 0.5}
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["temperature"] == 0.5
    assert "_name_or_path" not in written
    for source in (LlamaConfig, AutoConfig):
        back = source.from_pretrained(tmp_path, num_labels=3, use_cache=False)
        assert back == config.update({"num_labels": 3, "use_cache": False})
        assert back.name_or_path == str(tmp_path)
        back, unused = source.from_pretrained(tmp_path, colour=1, pad_token_id=0, return_unused_kwargs=True)
        assert (back.pad_token_id, unused) == (0, {"colour": 1})
        assert "did you mean 'use_cache'?" in raises(lambda s=source: s.from_pretrained(tmp_path, use_cach=1))
        refused = raises(lambda s=source: s.from_pretrained(tmp_path, trust_remote_code=True))
        assert refused.startswith("trust_remote_code: code that comes with a checkpoint is never run")
    named = tmp_path / "shape.json"
    config.to_json_file(named, use_diff=False)
    assert config == LlamaConfig.from_json_file(named) == LlamaConfig.from_pretrained(named)
    assert LlamaConfig.get_config_dict(tmp_path, revision="main", x=1) == (written, {"x": 1})
    (tmp_path / "my-llama-3").mkdir()
    (tmp_path / "my-llama-3" / "config.json").write_text('{"hidden_size": 64}')
    assert AutoConfig.from_pretrained(tmp_path / "my-llama-3").hidden_size == 64, "told by the folder's name"


def test_updates_make_a_new_configuration() -> None:
    config = LlamaConfig(**SMALL, id2label={0: "no", 1: "yes"})
    changed = config.update({"num_labels": 3, "hidden_act": "gelu"})
    assert (changed.num_labels, changed.id2label[2], changed.hidden_act) == (3, "LABEL_2", "gelu")
    assert changed.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert config.update({"num_labels": 2}).id2label == config.id2label == {0: "no", 1: "yes"}
    assert config.label2id == {"no": 0, "yes": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 4  # type: ignore[misc]
    assert raises(lambda: config.update({"temperature": 2})) == (
        "LlamaConfig.temperature: is a setting of generation and no fact of a model; give it where text is "
        "generated, or put it into generation_config.json"
    )
    assert "did you mean 'hidden_size'?" in raises(lambda: config.update({"hiden_size": 2}))
    named = config.update({"id2label": {0: "a", 1: "b", 2: "c"}})
    assert (named.num_labels, named.label2id) == (3, {"a": 0, "b": 1, "c": 2})
    assert config.update({"id2label": {0: "a", 1: "b"}}).label2id == {"a": 0, "b": 1}
    given = config.update({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1, "ab": 1}})
    assert given.label2id == {"a": 0, "b": 1, "ab": 1}
    assert LlamaConfig(**SMALL, dtype=torch.bfloat16).dtype == "bfloat16"


def test_updates_from_text_are_read_as_the_reference_reads_them() -> None:
    text = (
        "hidden_size=16,attention_dropout=0.5,use_cache=No,attention_bias=1,hidden_act=gelu,rms_norm_eps=1e-3"
    )
    mine, other = LlamaConfig(**SMALL).update_from_string(text), theirs(SMALL)
    other.update_from_string(text)
    for name in (
        "hidden_size",
        "attention_dropout",
        "use_cache",
        "attention_bias",
        "hidden_act",
        "rms_norm_eps",
    ):
        value = getattr(mine, name)
        assert value == getattr(other, name), name
        assert type(value) is type(getattr(other, name)), name
    config = LlamaConfig(**SMALL, attention_dropout=0)
    assert config.update_from_string("attention_dropout=0.1").attention_dropout == 0.1
    for wrong, said in {
        "use_cache=maybe": "use_cache: 'maybe' is neither true nor false",
        "hidden_size=x": "hidden_size: 'x' was given where int is wanted",
        "pad_token_id=1": "pad_token_id: only numbers, true or false, and text can be changed by text",
        "hidden_size": "'hidden_size': a change is written as field=value",
    }.items():
        assert raises(lambda wrong=wrong: config.update_from_string(wrong)) == said
        with pytest.raises((ValueError, TypeError)):
            theirs(SMALL).update_from_string(wrong)


def test_what_does_nothing_in_a_family_is_refused() -> None:
    assert raises(lambda: LlamaConfig(chunk_size_feed_forward=4, is_encoder_decoder=True)).splitlines() == [
        "LlamaConfig.chunk_size_feed_forward: has no effect in a llama, leave it at 0",
        "LlamaConfig.is_encoder_decoder: has no effect in a llama, leave it at False",
    ]
    assert LlamaConfig.from_dict({"chunk_size_feed_forward": 0}) == LlamaConfig()


def test_settings_of_generation_are_known() -> None:
    # use_cache is a fact of a model here as there, both in its configuration and where it generates.
    assert set(GenerationConfig._get_default_generation_params()) - {"use_cache"} <= GENERATION_SETTINGS
    assert GenerationConfig().to_dict().keys() | {"early_stopping"} >= GENERATION_SETTINGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartConfig(ModelConfig):
    model_type = "part"
    size: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig(ModelConfig):
    model_type = "pair"
    text_config: PartConfig = PartConfig()
    text_encoder: PartConfig | None = None


def test_the_configuration_of_text() -> None:
    config = LlamaConfig(**SMALL)
    assert config.get_text_config() is config.get_text_config(decoder=True) is config
    pair = PairConfig()
    assert pair.get_text_config() is pair.get_text_config(decoder=True) is pair.text_config
    assert pair.get_text_config(encoder=True) is pair
    both = PairConfig(text_encoder=PartConfig(size=2))
    assert both.get_text_config(encoder=True).size == 2
    assert "there are text_encoder and text_config" in raises(both.get_text_config)


def test_a_family_of_ones_own_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOG, "pair", "taken:Taken")
    monkeypatch.delitem(CATALOG, "pair")
    AutoConfig.register("pair", PairConfig)
    assert AutoConfig.for_model("pair") == AutoConfig.from_dict({"model_type": "pair"}) == PairConfig()
    assert raises(lambda: AutoConfig.register("pair", PairConfig)) == (
        "AutoConfig.register: 'pair' is taken; take another name, or exist_ok=True"
    )
    AutoConfig.register("pair", PairConfig, exist_ok=True)
    assert "PairConfig.model_type is 'pair', set it to 'couple'" in raises(
        lambda: AutoConfig.register("couple", PairConfig)
    )
    local = dataclasses.make_dataclass("Local", [], bases=(PairConfig,), frozen=True, kw_only=True)
    local.__qualname__ = "here.<locals>.Local"
    assert "at the top level" in raises(lambda: AutoConfig.register("pair", local, exist_ok=True))
    assert "LlamaConfig: code is never saved" in raises(LlamaConfig.register_for_auto_class)
    assert AutoConfig.for_model("llama", hidden_size=64) == LlamaConfig(hidden_size=64)
    assert PreTrainedConfig is ModelConfig


def test_a_hubs_configuration_is_fetched_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        LlamaConfig(**SMALL).save_pretrained(tmp_path / "inner")
        return str(tmp_path)

    hub = ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    config = AutoConfig.from_pretrained(
        "owner/name", revision="abc", subfolder="inner", token="t", use_cache=False
    )
    assert config == LlamaConfig(**SMALL, use_cache=False)
    assert asked == {
        "name": "owner/name",
        "revision": "abc",
        "cache_dir": None,
        "force_download": False,
        "local_files_only": False,
        "token": "t",
        "allow_patterns": ["inner/config.json", "inner/generation_config.json"],
    }
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: 1 / 0)
    assert raises(lambda: AutoConfig.from_pretrained("owner/name")) == (
        "owner/name: is no folder here and cannot be had from the hub (division by zero)"
    )
    assert raises(lambda: AutoConfig.from_pretrained("/no/such/folder")) == (
        "/no/such/folder: there is no such folder, and it cannot be the id of a hub's model"
    )
