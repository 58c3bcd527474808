"""The documented Auto classes, and models of a program's own in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from torch import nn

from models import CATALOG, AutoConfig, LlamaConfig, factories
from models.bert.config import BertConfig
from models.config import ModelConfig
from models.factories import Factory
from models.llama.tasks import LlamaForCausalLM
from tests.models.oracle import ours, raises

ALL = {name: thing for name, thing in vars(factories).items() if isinstance(thing, Factory)}
LLAMA, BERT = LlamaConfig.preset("tiny"), BertConfig.preset("tiny")
MADE = {
    "AutoModel": {"llama": "LlamaModel", "bert": "BertModel"},
    "AutoModelForPreTraining": {"bert": "BertForPreTraining", "xlm-roberta": "XLMRobertaForMaskedLM"},
    "AutoModelForCausalLM": {"llama": "LlamaForCausalLM", "bert": "BertLMHeadModel"},
    "AutoModelForMaskedLM": {"bert": "BertForMaskedLM"},
    "AutoModelForSequenceClassification": {
        "llama": "LlamaForSequenceClassification",
        "bert": "BertForSequenceClassification",
    },
    "AutoModelForMultipleChoice": {"bert": "BertForMultipleChoice"},
    "AutoModelForNextSentencePrediction": {"bert": "BertForNextSentencePrediction"},
    "AutoModelForTokenClassification": {"bert": "BertForTokenClassification"},
    "AutoModelForQuestionAnswering": {"bert": "BertForQuestionAnswering"},
    "AutoModelForTextEncoding": {"bert": "BertModel", "xlm-roberta": "XLMRobertaModel"},
}


def test_all_forty_are_here_under_their_names() -> None:
    assert len(ALL) == 40
    for name, factory in ALL.items():
        assert factory.name == name
        assert hasattr(transformers, name)


@pytest.mark.parametrize("name", MADE)
def test_those_with_an_architecture_make_the_references(name: str) -> None:
    for family, architecture in MADE[name].items():
        config = AutoConfig.for_model(family)
        model = ALL[name].from_config(config, device="meta")
        assert model.architecture == architecture
        assert isinstance(model, ALL[name])
        theirs = transformers.AutoConfig.for_model(family)
        assert type(theirs) in getattr(transformers, name)._model_mapping
        assert getattr(transformers, name)._model_mapping[type(theirs)].__name__ == architecture
    assert not isinstance(ours(), ALL["AutoModel"])
    assert isinstance(ours(), factories.AutoModelForCausalLM)


def test_the_others_say_what_they_cannot_do(tmp_path: Path) -> None:
    ours().save_pretrained(tmp_path)
    for name in ALL.keys() - MADE.keys():
        said = f"{name}: no architecture here does {ALL[name].does}"
        assert raises(lambda name=name: ALL[name].from_config(LLAMA)) == said
    said = raises(lambda: factories.AutoModelForSeq2SeqLM.from_pretrained(tmp_path))
    assert said == "AutoModelForSeq2SeqLM: no architecture here does sequence-to-sequence language modeling"
    assert raises(lambda: factories.AutoModelForMaskedLM.from_config(LLAMA)).startswith(
        "model_type: llama has no head for 'masked_lm'; "
    )
    assert raises(lambda: factories.AutoModelForTextEncoding.from_config(LLAMA)) == (
        "AutoModelForTextEncoding: a llama is none of the families that do text encoding"
    )
    assert "no head for 'pretraining'" in raises(lambda: factories.AutoModelForPreTraining.from_config(LLAMA))
    for name in ("AutoModel", "AutoModelForCausalLM"):
        make = ALL[name].from_config
        assert raises(lambda make=make: make(LLAMA, trust_remote_code=True)).startswith("trust_remote_code: ")
        assert raises(lambda make=make: make(LLAMA, attn="eager")) == (
            "LlamaConfig.attn: no such option; known are attn_implementation."
        )
    assert raises(lambda: LlamaForCausalLM(BERT)) == "model_type: this is a 'bert' configuration, not 'llama'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnConfig(ModelConfig):
    model_type: ClassVar[str] = "own"
    width: int = 3


class OwnModel(nn.Module):
    config_class = OwnConfig

    def __init__(self, config: OwnConfig, scale: float = 1.0):
        super().__init__()
        self.config, self.weight = config, nn.Parameter(scale * torch.ones(config.width))

    @classmethod
    def from_pretrained(cls, folder: Path, config: OwnConfig | None = None, **options: Any) -> OwnModel:
        return cls(config or OwnConfig.from_pretrained(folder), **options)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOG, "own", "taken:Taken")
    for name in ("AutoModel", "AutoModelForCausalLM"):
        monkeypatch.setitem(ALL[name].registered, OwnConfig, None)
        monkeypatch.delitem(ALL[name].registered, OwnConfig)
    AutoConfig.register("own", OwnConfig, exist_ok=True)


@pytest.mark.usefixtures("own")
def test_models_of_ones_own_are_made_and_loaded(tmp_path: Path) -> None:
    factory = factories.AutoModel
    assert raises(lambda: factory.from_config(OwnConfig())).startswith(
        "model_type: 'own' is registered as a configuration alone"
    )
    factory.register(OwnConfig, OwnModel)
    model = factory.from_config(OwnConfig(width=4), scale=2.0)
    assert model.weight.tolist() == [2.0] * 4
    assert isinstance(model, factory)
    OwnConfig(width=5).save_pretrained(tmp_path)
    assert len(factory.from_pretrained(tmp_path).weight) == 5
    assert factory.from_pretrained(tmp_path, config=OwnConfig(), scale=3.0).weight.tolist() == [3.0] * 3
    assert raises(lambda: factories.AutoModelForCausalLM.from_config(OwnConfig())).startswith(
        "model_type: 'own' is registered as a configuration alone"
    )
    assert isinstance(factory.from_config(LLAMA, device="meta"), factory), "other families as before"


@pytest.mark.usefixtures("own")
def test_what_cannot_be_registered_is_refused() -> None:
    factory = factories.AutoModel
    factory.register(OwnConfig, OwnModel)
    assert raises(lambda: factory.register(OwnConfig, OwnModel)) == (
        "AutoModel.register: OwnConfig has a model already; exist_ok=True replaces it"
    )
    factory.register(OwnConfig, OwnModel, exist_ok=True)
    assert raises(lambda: factory.register(LlamaConfig, lambda config: None)) == (
        "AutoModel.register: LlamaConfig has a model already; exist_ok=True replaces it"
    )
    assert raises(lambda: factory.register(LlamaConfig, OwnModel)) == (
        "AutoModel.register: the model's config_class is OwnConfig, not LlamaConfig"
    )
