"""AutoTokenizer: which class a folder gets, and what is registered."""

from __future__ import annotations

import json

import pytest
import transformers

from conf.errors import CheckpointError, ConfigError
from processors import AutoTokenizer, Tokenizer
from processors.folders import has_tokenizer
from processors.tokenizers import AlbertTokenizer, BertTokenizer, BertTokenizerLegacy, LlamaTokenizer
from tests.processors.test_families import lines_of, write
from tests.processors.test_kinds import TEXTS, agree, trained


@pytest.mark.parametrize(
    ("config", "model", "found"),
    [
        ({"tokenizer_class": "BertTokenizerFast"}, None, BertTokenizer),
        ({"tokenizer_class": "BertTokenizerLegacy"}, None, BertTokenizerLegacy),
        ({}, {"model_type": "bert"}, BertTokenizer),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "bert"}, BertTokenizer),
        ({}, {"model_type": "llama", "tokenizer_class": "BertTokenizer"}, BertTokenizer),
        ({}, {"model_type": "new"}, Tokenizer),
        ({}, None, Tokenizer),
    ],
    ids=str,
)
def test_the_class_of_a_folder(config, model, found, tmp_path):
    files = {} if model is None else {"config.json": model}
    write(tmp_path, {"do_lower_case": False, **config}, vocab_txt=lines_of(trained("wordpiece")), **files)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path), padding_side="left")
    assert has_tokenizer(tmp_path)
    assert type(loaded) is found
    assert loaded.padding_side == "left"
    agree(
        loaded, transformers.BertTokenizer.from_pretrained(tmp_path), [] if not loaded.is_fast else TEXTS[:9]
    )


def test_a_tokenizer_json_that_does_not_fit_its_class(tmp_path):
    """As those of Llama 3 that say LlamaTokenizer."""
    trained("bpe").save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, {**config, "tokenizer_class": "LlamaTokenizer"})
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is Tokenizer
    agree(loaded, transformers.AutoTokenizer.from_pretrained(tmp_path), TEXTS[:20])


def test_the_model_beside_a_tokenizer_json_changes_nothing_of_it(tmp_path):
    trained("bpe").save(tmp_path)
    write(tmp_path, None, config_json={"model_type": "llama"})
    assert Tokenizer.load(tmp_path).files() == trained("bpe").files()


def test_a_type_and_a_subfolder(tmp_path):
    trained("unigram").save(tmp_path / "inside")
    assert type(AutoTokenizer.from_pretrained(tmp_path, subfolder="inside")) is Tokenizer
    loaded = AutoTokenizer.from_pretrained(tmp_path, subfolder="inside", tokenizer_type="albert")
    assert type(loaded) is AlbertTokenizer
    with pytest.raises(ConfigError, match="there is no tokenizer_type 'alberta'; known are albert, bert, "):
        AutoTokenizer.from_pretrained(tmp_path, subfolder="inside", tokenizer_type="alberta")


def test_register(tmp_path, monkeypatch):
    monkeypatch.setattr(AutoTokenizer, "_registered", {})

    class MineTokenizer(BertTokenizer):
        tokenizer_class = "MineTokenizer"

    class MineConfig:
        model_type = "mine"

    trained("wordpiece").save(tmp_path)
    write(tmp_path, None, config_json={"model_type": "mine"})
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is Tokenizer
    AutoTokenizer.register(
        MineConfig, fast_tokenizer_class=MineTokenizer, slow_tokenizer_class=LlamaTokenizer
    )
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert type(found) is MineTokenizer
    (tmp_path / "config.json").unlink()
    found.save(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is MineTokenizer
    for taken in ("mine", "bert"):
        with pytest.raises(ConfigError, match=f"'{taken}' has a tokenizer; exist_ok=True would replace it"):
            AutoTokenizer.register(taken, BertTokenizer)
    AutoTokenizer.register("bert", MineTokenizer, exist_ok=True)
    with pytest.raises(ConfigError, match="no class was given for 'other'"):
        AutoTokenizer.register("other")
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoTokenizer()


def test_the_hub_is_asked_only_for_what_is_no_folder(tmp_path, monkeypatch):
    import huggingface_hub

    trained("bpe").save(tmp_path / "there")
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        return str(tmp_path / "there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    AutoTokenizer.from_pretrained(tmp_path / "there", revision="main")
    assert asked == []
    loaded = AutoTokenizer.from_pretrained("org/name", revision="v1", local_files_only=True)
    assert loaded.get_vocab() == trained("bpe").get_vocab()
    ((name, options),) = asked
    assert name == "org/name"
    assert options.pop("allow_patterns") == ["*.json", "*.jinja", "*.txt", "*.model"]
    unset = {"cache_dir": None, "force_download": False, "token": None}
    assert options == {"revision": "v1", "local_files_only": True, **unset}


def test_what_is_neither_a_folder_nor_in_the_hub(tmp_path):
    with pytest.raises(CheckpointError, match="org/name: is no folder here and cannot be had from the hub"):
        AutoTokenizer.from_pretrained("org/name", local_files_only=True, cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder, and it cannot be the id of a hub's"):
        AutoTokenizer.from_pretrained(str(tmp_path / "not" / "there"))
