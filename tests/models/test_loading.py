"""How a model is loaded: options, gaps and what is said of them, as in transformers where it does so."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

from models import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, TaskModel
from models.bert import convert as bert_table
from models.bert.config import BertConfig
from models.bert.tasks import BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel
from models.loading import logger
from models.weights import named_checkpoint_tensors
from tests.models.oracle import close, ours, raises

IDS = torch.arange(1, 25).view(2, 12)
BERT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What loading warns of."""
    lines: list[str] = []
    monkeypatch.setattr(logger, "warning", lines.append)
    return lines


def saved(model: TaskModel, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    model.save_pretrained(folder, **options)
    return dict(named_checkpoint_tensors(model))


def test_a_head_that_is_not_there_is_drawn_and_said(tmp_path: Path, said: list[str]) -> None:
    tensors = saved(ours(pad_token_id=0, tie_word_embeddings=False), tmp_path)
    torch.manual_seed(3)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, output_loading_info=True
    )
    assert said == [
        f"{tmp_path}: lacks score.weight; drawn afresh, to be trained before use",
        f"{tmp_path}: has lm_head.weight, which this model has no use for",
    ]
    _, expected = transformers.LlamaForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, output_loading_info=True
    )
    assert info == {key: type(info[key])(expected[key]) for key in info}
    assert model.head.weight.std().item() == pytest.approx(0.2, rel=0.3)
    assert not model.training
    assert model.config.name_or_path == str(tmp_path)
    torch.manual_seed(3)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert torch.equal(again.head.weight, model.head.weight), "torch's generator decides"
    assert torch.equal(model.get_input_embeddings().weight, tensors["model.embed_tokens.weight"])
    said.clear()
    AutoModelForCausalLM.from_pretrained(tmp_path)
    assert said == []


def test_only_what_is_missing_of_a_head_is_drawn(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BertConfig(**BERT)
    tensors = saved(BertForMaskedLM(config, seed=0), tmp_path)
    optional = ("backbone.pooler.",)
    monkeypatch.setattr(bert_table, "DRAWN_IF_MISSING", (), raising=False)
    assert raises(lambda: BertModel.from_pretrained(tmp_path)).endswith(
        "missing or of another shape: pooler.dense.weight, pooler.dense.bias"
    )
    monkeypatch.setattr(bert_table, "DRAWN_IF_MISSING", optional)
    model = BertForPreTraining.from_pretrained(tmp_path)
    assert said[0].startswith(f"{tmp_path}: lacks bert.pooler.dense.weight, bert.pooler.dense.bias, cls.seq_")
    found = dict(named_checkpoint_tensors(model))
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    drawn = {key: found[key] for key in found.keys() - tensors.keys()}
    assert len(drawn) == 4
    for key, tensor in drawn.items():
        assert torch.isfinite(tensor).all()
        assert bool(tensor.any()) == key.endswith("weight")
    assert model.head.predictions.decoder.weight is model.get_input_embeddings().weight


def test_other_shapes_are_refused_unless_ignored(tmp_path: Path, said: list[str]) -> None:
    fields = {**BERT, "num_labels": 3}
    tensors = saved(BertForSequenceClassification(BertConfig(**fields), seed=0), tmp_path)
    assert raises(lambda: BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)).endswith(
        "missing or of another shape: classifier.weight, classifier.bias"
    )
    model, info = BertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    _, expected = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert (
        info["mismatched_keys"]
        == {(key, tuple(a), tuple(b)) for key, a, b in expected["mismatched_keys"]}
        == {("classifier.weight", (3, 32), (5, 32)), ("classifier.bias", (3,), (5,))}
    )
    assert said == [
        f"{tmp_path}: has in another shape classifier.weight, classifier.bias; drawn afresh, to be trained "
        "before use"
    ]
    assert not model.head.classifier.bias.any()
    assert torch.equal(model.backbone.pooler.dense.weight, tensors["bert.pooler.dense.weight"])
    message = raises(lambda: AutoModel.from_pretrained(tmp_path, num_hidden_layers=2))
    assert "missing or of another shape: encoder.layer.1." in message
    assert message.endswith(" and 11 more")


def test_the_weights_type(tmp_path: Path) -> None:
    ours().bfloat16().save_pretrained(tmp_path)
    load = AutoModelForCausalLM.from_pretrained
    assert load(tmp_path).dtype == load(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert load(tmp_path, dtype=torch.float64).dtype == torch.float64
    unstated = LlamaConfig.from_pretrained(tmp_path, dtype=None)
    assert load(tmp_path, config=unstated).dtype == torch.bfloat16, "that of the first tensor"


def test_other_sources_of_weights(tmp_path: Path) -> None:
    model = ours(tie_word_embeddings=True)
    tensors = saved(model, tmp_path / "plain")
    expected = model(IDS).logits
    load = AutoModelForCausalLM.from_pretrained
    model.config.save_pretrained(tmp_path / "bare")
    assert torch.equal(load(tmp_path / "bare", state_dict=tensors)(IDS).logits, expected)
    loaded = load(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(loaded(IDS).logits, expected), "names of the model do as well"
    assert loaded.config.name_or_path == ""
    assert raises(lambda: load(None, state_dict=tensors)) == (
        "from_pretrained: without a folder or name, give both config and state_dict"
    )
    torch.save(tensors, tmp_path / "bare" / "pytorch_model.bin")
    assert torch.equal(load(tmp_path / "bare")(IDS).logits, expected)
    model.config.save_pretrained(tmp_path / "empty")
    assert "holds neither model.safetensors" in raises(lambda: load(tmp_path / "empty"))
    assert "bin" in raises(lambda: load(tmp_path / "plain", use_safetensors=False))
    model.save_pretrained(tmp_path / "plain", variant="fp16", max_shard_size="20KB")
    assert torch.equal(load(tmp_path / "plain", variant="fp16")(IDS).logits, expected)
    assert len(list((tmp_path / "plain").glob("model.fp16-*"))) > 1
    assert torch.equal(load(tmp_path / "plain")(IDS).logits, expected), "another variant's files stay"
    config = LlamaConfig.from_pretrained(tmp_path / "plain", use_cache=False)
    (tmp_path / "plain" / "config.json").unlink()
    assert not load(tmp_path / "plain", config=config).config.use_cache
    assert torch.equal(load(tmp_path / "plain", config=tmp_path / "bare")(IDS).logits, expected)


def test_what_is_saved_may_be_given(tmp_path: Path) -> None:
    model = ours(tie_word_embeddings=True)
    doubled = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    model.save_pretrained(tmp_path, state_dict=doubled)
    found = dict(named_checkpoint_tensors(AutoModelForCausalLM.from_pretrained(tmp_path)))
    expected = dict(named_checkpoint_tensors(model))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], 2 * expected[key]) for key in expected)
    wrapped = {f"module.{name}": tensor for name, tensor in doubled.items()}
    wrong = {
        "state_dict: this model has no module.": {"state_dict": wrapped},
        "max_shard_size: '5XB' is no": {"max_shard_size": "5XB"},
    }
    for text, options in wrong.items():
        assert raises(lambda options=options: model.save_pretrained(tmp_path, **options)).startswith(text)
        assert (tmp_path / "model.safetensors").is_file(), "what was there stays"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"trust_remote_code": True}, "trust_remote_code: code that comes with a checkpoint is never run"),
        ({"weights_only": False}, "weights_only: a pickle that can run code is never read; leave it at true"),
        ({"device_map": "auto"}, "device_map: 'auto' would split the model; it is loaded onto one device"),
        ({"device_map": {"a": "cpu", "b": 0}}, "device_map: {'a': 'cpu', 'b': 0} would split the model"),
        ({"device": "gpu"}, "device: 'gpu' cannot be used here ("),
        ({"device_map": "cuda:99"}, "device: 'cuda:99' cannot be used here ("),
        ({"dtype": torch.int8}, "model.dtype: there is no 'int8'; known are bfloat16, "),
        ({"dtype": "bfloat"}, "model.dtype: there is no 'bfloat'; did you mean 'bfloat16'?"),
        ({"attn_implementation": "sdap"}, "model.attn_implementation: there is no 'sdap'"),
        ({"torch_dtype": "float32"}, "LlamaConfig.torch_dtype: no such option; did you mean 'dtype'?"),
        ({"experts_implementation": "eager"}, "LlamaConfig.experts_implementation: no such option"),
        ({"num_labels": 0}, "LlamaConfig.num_labels: must be at least 1, got 0"),
    ],
    ids=str,
)
def test_what_is_never_done_is_refused(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    ours().save_pretrained(tmp_path)
    assert raises(lambda: AutoModelForCausalLM.from_pretrained(tmp_path, **options)).startswith(text)


def test_one_device_and_one_backend(tmp_path: Path) -> None:
    ours(None).save_pretrained(tmp_path)
    for device_map in ("cpu", torch.device("cpu"), {"": "cpu"}, {}):
        model = AutoModel.from_pretrained(tmp_path, device_map=device_map, attn_implementation={"": "eager"})
        assert model.device.type == "cpu"
        assert model(IDS, output_attentions=True).attentions[0].shape == (2, 4, 12, 12)
    BertModel(BertConfig(**BERT), seed=0).save_pretrained(tmp_path)
    assert BertModel.from_pretrained(tmp_path, add_pooling_layer=False).backbone.pooler is None


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_of_a_repository_only_the_weights_are_fetched(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ours()
    tensors = saved(model, tmp_path)
    if kind == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    asked: list[str] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        assert (name, options["revision"]) == ("owner/model", "v1")
        asked.extend(allow_patterns)
        return str(tmp_path)

    hub = ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    loaded = AutoModelForCausalLM.from_pretrained("owner/model", revision="v1")
    assert close(loaded(IDS).logits, model(IDS).logits, 0.0)
    assert loaded.config.name_or_path == "owner/model"
    assert {name.rpartition(".")[2] for name in asked} == {
        "json",
        *["safetensors", kind][: 1 + (kind == "bin")],
    }
