"""What models return, by name, key and position; the types are transformers', field for field."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from transformers import modeling_outputs as reference

from models import media_outputs, outputs, seq2seq_outputs
from models.outputs import BaseModelOutput, CausalLMOutput, ModelOutput, output_type
from tests.models.oracle import raises

TYPES = {
    name: kind
    for module in (outputs, seq2seq_outputs, media_outputs)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, ModelOutput) and kind is not ModelOutput
}
OF_FAMILIES = {"BertForPreTrainingOutput", "AlbertForPreTrainingOutput"}
# The reference page's, main_classes/output, but for those of other frameworks.
DOCUMENTED = """
    BaseModelOutput BaseModelOutputWithPooling BaseModelOutputWithCrossAttentions
    BaseModelOutputWithPoolingAndCrossAttentions BaseModelOutputWithPast
    BaseModelOutputWithPastAndCrossAttentions Seq2SeqModelOutput CausalLMOutput
    CausalLMOutputWithCrossAttentions CausalLMOutputWithPast MaskedLMOutput Seq2SeqLMOutput
    NextSentencePredictorOutput SequenceClassifierOutput Seq2SeqSequenceClassifierOutput
    MultipleChoiceModelOutput TokenClassifierOutput QuestionAnsweringModelOutput
    Seq2SeqQuestionAnsweringModelOutput Seq2SeqSpectrogramOutput SemanticSegmenterOutput
    ImageClassifierOutput ImageClassifierOutputWithNoAttention DepthEstimatorOutput
    Wav2Vec2BaseModelOutput XVectorOutput Seq2SeqTSModelOutput Seq2SeqTSPredictionOutput
    SampleTSPredictionOutput
"""


def test_the_documented_types_are_here_with_their_fields() -> None:
    assert set(DOCUMENTED.split()) <= TYPES.keys()
    for name, kind in TYPES.items():
        if name not in OF_FAMILIES:
            expected = [field.name for field in fields(getattr(reference, name))]
            assert [field.name for field in fields(kind)] == expected, name


def test_absent_values_are_skipped_everywhere_but_as_attributes() -> None:
    values = {"logits": torch.ones(2, 3), "attentions": (torch.zeros(1),)}
    mine, other = CausalLMOutput(**values), reference.CausalLMOutput(**values)
    assert mine.loss is other.loss is None
    assert mine.keys() == tuple(other.keys()) == ("logits", "attentions")
    assert list(mine) == list(other)
    assert len(mine) == len(other) == 2
    for key in (0, -1, "logits", slice(None), slice(1, None)):
        assert mine[key] is other[key] or list(mine[key]) == list(other[key]), key
    assert mine.to_tuple() == other.to_tuple()
    assert "loss" not in mine
    assert "loss" not in other
    assert mine.get("loss", 7) == other.get("loss", 7) == 7
    assert dict(**mine).keys() == dict(**other).keys()
    for key in ("loss", "nothing"):
        with pytest.raises(KeyError):
            mine[key]
    with pytest.raises(IndexError):
        mine[2]


def test_nothing_is_put_in_or_taken_out() -> None:
    output: Any = CausalLMOutput(logits=torch.ones(2))
    other: Any = reference.CausalLMOutput(logits=torch.ones(2))
    for name, arguments in {"pop": ("logits",), "update": ({},), "setdefault": ("loss", 1)}.items():
        for refusing in (output, other):
            raises(lambda o=refusing, n=name, a=arguments: getattr(o, n)(*a))
    for refusing in (output, other):
        raises(lambda o=refusing: o.__delitem__("logits"))
    with pytest.raises(FrozenInstanceError):
        output.loss = torch.ones(1)


@output_type
class Towers(ModelOutput):
    """Two outputs in one, as of models of text and images."""

    loss: torch.Tensor | None = None
    text: BaseModelOutput | None = None
    image: BaseModelOutput | None = None


def test_outputs_within_outputs() -> None:
    inner = BaseModelOutput(last_hidden_state=torch.ones(2))
    output = Towers(text=inner)
    assert output.to_tuple() == ((inner.last_hidden_state,),)
    assert output[0] is inner
    leaves, spec = pytree.tree_flatten(output)
    assert leaves[0] is inner.last_hidden_state
    doubled = pytree.tree_unflatten([2 * leaf for leaf in leaves], spec)
    assert isinstance(doubled, Towers)
    assert torch.equal(doubled.text.last_hidden_state, 2 * inner.last_hidden_state)
    for copied in (copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert torch.equal(copied.text.last_hidden_state, inner.last_hidden_state)
        assert copied.image is None
