"""Heads: chunked losses against full logits, sums against means, and classification against transformers.

That each encoder head gives the reference's outputs is for the families' shared suite.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.trainer_pt_utils import LabelSmoother

from models.heads.causal_lm import shift_labels
from models.heads.chunked import linear_log_probs, linear_nll
from models.heads.masked_lm import TransformedCausalLMHead
from models.outputs import BaseModelOutput
from models.task_model import TaskModel
from tests.models.families.albert import CASE
from tests.models.families.family import labelled, padded
from tests.models.oracle import (
    assert_gradients_agree,
    close,
    ours,
    packed_batch,
    padded_batch,
    raises,
    theirs,
)
from trainer.objectives.causal_lm import CausalLM
from trainer.objectives.options import CausalLMOptions

VOCAB, WIDTH = 50, 8


def case(dtype: torch.dtype = torch.float32, ignored: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a weight and labels of which a share is ignored."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 11, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, WIDTH, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCAB, (3, 11), generator=generator)
    return hidden, weight, labels.masked_fill(torch.rand(3, 11, generator=generator) < ignored, -100)


def full_log_probs(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The same by the book, with all logits."""
    logits = F.linear(hidden, weight).float() if hidden.dtype != torch.float64 else F.linear(hidden, weight)
    return -F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")


@pytest.mark.parametrize("rows_per_chunk", [1, 4, 1000])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_chunked_nll_equals_full_logits(rows_per_chunk: int, ignored: float) -> None:
    hidden, weight, labels = case(ignored=ignored)
    chunked = linear_nll(hidden, weight, labels, rows_per_chunk * VOCAB * 4)
    found = torch.autograd.grad(2.5 * chunked, (hidden, weight))
    full = -full_log_probs(hidden, weight, labels).sum()
    expected = torch.autograd.grad(2.5 * full, (hidden, weight))
    assert close(chunked, full, 1e-6)
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))


def smoothed(hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Label smoothing by the book: (1 - e) of the label's term and e of the mean over the vocabulary."""
    log_probs = F.linear(hidden, weight).log_softmax(-1)[labels != -100]
    label_terms = log_probs.gather(1, labels[labels != -100][:, None]).sum()
    return -(1 - smoothing) * label_terms - smoothing * log_probs.mean(dim=1).sum()


@pytest.mark.parametrize("rows_per_chunk", [1, 4, 1000])
@pytest.mark.parametrize("smoothing", [0.1, 0.7, 1.0])
def test_label_smoothing_equals_the_formula_with_all_logits(smoothing: float, rows_per_chunk: int) -> None:
    hidden, weight, labels = case()
    chunked = linear_nll(hidden, weight, labels, rows_per_chunk * VOCAB * 4, smoothing=smoothing)
    found = torch.autograd.grad(2.5 * chunked, (hidden, weight))
    full = smoothed(hidden, weight, labels, smoothing)
    expected = torch.autograd.grad(2.5 * full, (hidden, weight))
    assert close(chunked, full, 1e-6)
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))


def test_label_smoothing_gradients_equal_finite_differences() -> None:
    *tensors, labels = case(torch.float64)

    def value(*of: Tensor) -> Tensor:
        return linear_nll(*of, labels, 5 * VOCAB * 8, smoothing=0.3)

    gradients = torch.autograd.grad(value(*tensors), tensors)
    generator, step = torch.Generator().manual_seed(5), 1e-5
    for _ in range(20):  # the gradients can be asked for only once: gradcheck asks twice
        ways = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in tensors]
        ahead, back = (
            value(*(x + sign * way for x, way in zip(tensors, ways, strict=True))) for sign in (step, -step)
        )
        slope = sum((g * way).sum() for g, way in zip(gradients, ways, strict=True))
        torch.testing.assert_close((ahead - back) / (2 * step), slope, rtol=1e-7, atol=1e-7)


def test_label_smoothing_of_nothing_supervised_is_exactly_zero() -> None:
    hidden, weight, labels = case(ignored=1.0)
    loss = linear_nll(hidden * torch.inf, weight, labels, smoothing=0.1)
    loss.backward()
    assert loss.item() == 0
    assert not weight.grad.any()


def test_no_label_smoothing_costs_nothing() -> None:
    class Operations(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    names = {}
    for smoothing in (None, 0.0, 0.1):
        given = {} if smoothing is None else {"smoothing": smoothing}
        with Operations() as operations:
            linear_nll(*case(), **given)
        names[smoothing] = operations.names
    assert names[None] == names[0.0]
    assert len(names[0.1]) == len(names[0.0]) + 3, "a mean, a mixture and a shift of the gradient"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_objective_smooths_as_transformers_does(smoothing: float, training: bool) -> None:
    model = ours(num_key_value_heads=2).train(training)
    oracle = theirs(model)
    batch = padded_batch("right")
    objective = CausalLM(CausalLMOptions(), label_smoothing=smoothing)
    loss = objective(model, batch).terms["loss"] / objective.weights(batch)["loss"]
    whole = objective.predict(model, batch).terms["loss"] / objective.weights(batch)["loss"]
    smoother = LabelSmoother(epsilon=smoothing)
    logits = oracle(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = smoother({"logits": logits}, batch["labels"], shift_labels=True)
    assert close(loss, expected)
    assert close(whole, expected)
    loss.backward()
    expected.backward()
    assert_gradients_agree(model, oracle)


def test_nothing_supervised_is_exactly_zero_with_zero_gradients() -> None:
    hidden, weight, labels = case(ignored=1.0)
    loss = linear_nll(hidden * torch.inf, weight, labels)  # what is not supervised has no influence at all
    loss.backward()
    assert loss.item() == 0
    assert not weight.grad.any()
    loss = linear_nll(hidden, weight, labels)
    assert not torch.autograd.grad(loss, hidden)[0].any()


@pytest.mark.parametrize("rows_per_chunk", [1, 4, 1000])
def test_chunked_log_probs_equal_full_logits(rows_per_chunk: int) -> None:
    hidden, weight, labels = case()
    upstream = torch.randn(labels.shape, generator=torch.Generator().manual_seed(9))
    chunked = linear_log_probs(hidden, weight, labels, rows_per_chunk * VOCAB * 4)
    full = full_log_probs(hidden, weight, labels)
    assert close(chunked, full, 1e-6)
    assert not chunked[labels == -100].any()
    found = torch.autograd.grad((chunked * upstream).sum(), (hidden, weight))
    expected = torch.autograd.grad((full * upstream).sum(), (hidden, weight))
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))


def test_log_prob_gradients_equal_finite_differences() -> None:
    hidden, weight, labels = case(torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_log_probs(h, w, labels, 5 * VOCAB * 8), (hidden, weight), check_batched_grad=False
    )


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
@pytest.mark.parametrize("function", [linear_nll, linear_log_probs])
def test_only_what_learns_gets_a_gradient(function: Any, frozen: str) -> None:
    hidden, weight, labels = case()
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    value = function(hidden, weight, labels).sum()
    assert close(value.abs(), full_log_probs(hidden, weight, labels).sum().abs(), 1e-6)
    assert value.requires_grad == (frozen != "both")
    if value.requires_grad:
        value.backward()
    assert (hidden.grad is not None, weight.grad is not None) == (frozen == "weight", frozen == "hidden")


@pytest.mark.parametrize("function", [linear_nll, linear_log_probs])
@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_stays_near_fp32(function: Any, autocast: bool) -> None:
    hidden, weight, labels = case()
    expected = function(hidden, weight, labels).sum()
    right = torch.autograd.grad(expected, (hidden, weight))
    if not autocast:
        hidden, weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = function(hidden, weight, labels, 4 * VOCAB * 4).sum()
    assert found.dtype == torch.float32
    assert close(found, expected, 1e-2)
    for grad, reference, source in zip(
        torch.autograd.grad(found, (hidden, weight)), right, (hidden, weight), strict=True
    ):
        assert grad.dtype == source.dtype
        assert close(grad.float(), reference, 2e-2)


def test_a_second_backward_is_refused_and_not_wrong() -> None:
    hidden, weight, labels = case()
    loss = linear_nll(hidden, weight, labels)
    loss.backward(retain_graph=True)
    assert "only once" in raises(loss.backward)


def biased() -> Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(4)).requires_grad_()


@pytest.mark.parametrize("rows_per_chunk", [1, 4, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_bias_counts_and_learns_as_with_full_logits(rows_per_chunk: int, smoothing: float) -> None:
    hidden, weight, labels = case()
    bias, size = biased(), rows_per_chunk * VOCAB * 4
    full = F.linear(hidden, weight, bias).flatten(0, 1)
    pairs = [
        (
            linear_nll(hidden, weight, labels, size, bias=bias, smoothing=smoothing),
            F.cross_entropy(full, labels.flatten(), reduction="sum", label_smoothing=smoothing),
        )
    ]
    if not smoothing:
        upstream = torch.randn(labels.shape, generator=torch.Generator().manual_seed(9))
        each = -F.cross_entropy(full, labels.flatten(), reduction="none").view_as(labels)
        found = linear_log_probs(hidden, weight, labels, size, bias=bias)
        pairs.append(((found * upstream).sum(), (each * upstream).sum()))
    for value, expected in pairs:
        assert close(value, expected, 2e-6)
        gradients = torch.autograd.grad(value, (hidden, weight, bias))
        wanted = torch.autograd.grad(expected, (hidden, weight, bias), retain_graph=True)
        assert all(close(a, b) for a, b in zip(gradients, wanted, strict=True))


@pytest.mark.parametrize("function", [linear_nll, linear_log_probs])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_bias_in_bf16_stays_near_fp32_and_learns_alone(function: Any, autocast: bool) -> None:
    hidden, weight, labels = (x.detach() for x in case())
    bias = biased()
    expected = function(hidden, weight, labels, bias=bias).sum()
    (right,) = torch.autograd.grad(expected, bias)
    if not autocast:
        hidden, weight, bias = hidden.bfloat16(), weight.bfloat16(), bias.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = function(hidden, weight, labels, 4 * VOCAB * 4, bias=bias).sum()
    assert found.dtype == torch.float32
    assert close(found, expected, 1e-2)
    (gradient,) = torch.autograd.grad(found, bias)
    assert gradient.dtype == bias.dtype
    assert close(gradient.float(), right, 2e-2)


@pytest.mark.parametrize("tied", [True, False])
def test_chunked_head_in_a_model_equals_transformers(tied: bool) -> None:
    model = ours(tie_word_embeddings=tied, num_key_value_heads=2)
    oracle = theirs(model)
    batch = padded_batch("right")
    labels = batch.pop("labels")
    targets = shift_labels(labels)
    loss = model(batch, compute=lambda head, hidden: head.nll(hidden, targets)) / (targets != -100).sum()
    expected = oracle(**batch, labels=labels).loss
    assert close(loss, expected)
    loss.backward()
    expected.backward()
    assert_gradients_agree(model, oracle)


def test_labels_move_left_and_never_across_documents() -> None:
    labels = torch.tensor([[1, 2, 3, 4, 5, 6]])
    assert shift_labels(labels).tolist() == [[2, 3, 4, 5, 6, -100]]
    packed = shift_labels(labels, torch.tensor([0, 2, 6]))
    assert packed.tolist() == [[2, -100, 4, 5, 6, -100]]


CLASSIFICATION = {
    "classes": ({"num_labels": 4}, torch.tensor([0, 3, 1])),
    "two-by-default": ({}, torch.tensor([0, 1, 1])),
    "several": ({"num_labels": 4}, torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]])),
    "value": ({"num_labels": 1}, torch.tensor([0.5, -1.0, 2.0])),
    "values": ({"num_labels": 2, "problem_type": "regression"}, torch.randn(3, 2)),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", CLASSIFICATION)
def test_sequence_classification_equals_transformers(kind: str, side: str) -> None:
    fields, labels = CLASSIFICATION[kind]
    model = ours("sequence_classification", pad_token_id=0, num_key_value_heads=2, **fields)
    oracle = theirs(model)
    batch = {**padded_batch(side), "labels": labels}
    found, expected = model(batch), oracle(**batch)
    assert close(found.logits, expected.logits)
    assert close(found.loss, expected.loss)
    places = {name: batch[name] for name in ("input_ids", "attention_mask")}
    total = model(places, compute=lambda head, hidden: head.loss_sum(hidden, labels, **places))
    items = labels.numel()  # each mark and each value is one, as a Trainer counts labels
    assert close(total / items, expected.loss)
    assert close(model(batch, num_items_in_batch=2 * items).loss, expected.loss / 2)
    found.loss.backward()
    expected.loss.backward()
    assert_gradients_agree(model, oracle)


def test_packed_documents_are_classified_one_by_one() -> None:
    model = ours("sequence_classification", num_labels=3)
    lengths = (6, 2, 9)
    batch = packed_batch(lengths)
    separate = [model(ids).logits for ids in batch["input_ids"].split(lengths, dim=1)]
    assert close(model(batch).logits, torch.cat(separate), 1e-6)


def test_rows_without_a_padding_token_cannot_be_classified_together() -> None:
    model = ours("sequence_classification")
    assert model(torch.ones(1, 4).long()).logits.shape == (1, 2)
    assert raises(lambda: model(torch.ones(2, 4).long())) == (
        "pad_token_id: must be set in the model's configuration to classify several rows at once"
    )


# -- the heads of encoders -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSIFICATION)
def test_pooled_classification_equals_transformers(kind: str) -> None:
    fields, labels = CLASSIFICATION[kind]
    model = CASE.ours("sequence_classification", fields)
    oracle = CASE.theirs("sequence_classification", model)
    batch = {**padded("right"), "labels": labels}
    found, expected = model(batch), oracle(**batch)
    assert close(found.logits, expected.logits)
    assert close(found.loss, expected.loss)
    found.loss.backward()
    expected.loss.backward()
    assert_gradients_agree(model, oracle)


def split(task: str) -> tuple[TaskModel, dict[str, Tensor], list[Tensor]]:
    """A model, the backbone's inputs, and the labels in the order of the head's losses."""
    model = CASE.ours(task)
    batch = labelled(task, model, padded("right", token_types=True))
    labels = [batch.pop(name) for name in model.head.inputs if name in batch]
    return model, batch, labels


@pytest.mark.parametrize("task", [task for task in CASE.oracles if task not in (None, "pretraining")])
def test_sums_are_the_means_times_what_is_counted(task: str) -> None:
    model, inputs, labels = split(task)
    named = dict(zip(model.head.inputs, labels, strict=False))
    counts = [int(((x != -100) & (x < 20 if task == "question_answering" else True)).sum()) for x in labels]
    method = "nll" if task == "masked_lm" else "loss_sum"
    total = model(inputs, compute=lambda head, *read: getattr(head, method)(*read, *labels))
    assert total.dtype == torch.float32
    assert close(model(inputs, **named, num_items_in_batch=7).loss * 7, total, 1e-6)
    assert close(model(inputs, **named, num_items_in_batch=torch.tensor(7)).loss * 7, total, 1e-6)
    if len({*counts}) == 1:
        assert close(model(inputs, **named).loss * counts[0], total, 1e-6)
    else:  # of an answer's two positions one lies outside of the text: a mean for each
        assert (task, counts) == ("question_answering", [2, 3])


def test_pretraining_is_two_sums_with_two_counts() -> None:
    model, inputs, (labels, pairs) = split("pretraining")
    words, order = model(inputs, compute=lambda head, *read: head.loss_sums(*read, labels, pairs))
    smoothed, _ = model(inputs, compute=lambda head, *read: head.loss_sums(*read, labels, pairs, 0.1))
    assert smoothed > words
    named = {"labels": labels, "sentence_order_label": pairs}
    supervised = int((labels != -100).sum())
    mean = words / supervised + order / 3
    assert close(model(inputs, **named).loss, mean, 1e-6)
    assert close(model(inputs, **named, num_items_in_batch=4 * supervised).loss, mean / 4, 1e-6)
    nothing = torch.full_like(pairs, -100)  # as a part of a step may have
    without = {**named, "sentence_order_label": nothing, "num_items_in_batch": 4 * supervised}
    assert close(model(inputs, **without).loss, words / (4 * supervised), 1e-6)
    assert model(inputs, labels=labels).loss is None
    assert model(inputs, sentence_order_label=pairs).loss is None


def test_log_probabilities_of_masked_words_are_those_of_the_logits() -> None:
    model, inputs, (labels,) = split("masked_lm")
    found = model(inputs, compute=lambda head, hidden: head.log_probs(hidden, labels))
    expected = model(inputs).logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    assert close(found, expected.masked_fill(labels == -100, 0.0))


@pytest.mark.parametrize("task", ["masked_lm", "token_classification"])
def test_what_is_not_supervised_has_no_influence(task: str) -> None:
    model, _, (labels,) = split(task)
    head = model.head
    method = head.nll if task == "masked_lm" else head.loss_sum
    hidden = torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(0))
    poisoned = hidden.masked_fill((labels == -100)[..., None], torch.nan)
    assert torch.equal(method(poisoned, labels), method(hidden, labels))
    loss = method(poisoned, torch.full_like(labels, -100))
    loss.backward()
    assert loss.item() == 0
    assert not any(parameter.grad.any() for parameter in head.parameters())


def test_a_transformed_head_for_next_tokens_scores_only_what_is_kept() -> None:
    sizes = {"activation": "gelu", "eps": 1e-12, "shares_embeddings": False}
    head = TransformedCausalLMHead(WIDTH, 6, VOCAB, **sizes)
    head.decoder.init_weights(0.2)
    hidden = torch.randn(2, 5, WIDTH)
    whole = head(hidden)
    assert whole.shape == (2, 5, VOCAB)
    assert close(head(hidden, logits_to_keep=2), whole[:, -2:], 1e-6)
    assert close(head(hidden, logits_to_keep=torch.tensor([0, 3])), whole[:, [0, 3]], 1e-6)
    labels = torch.randint(0, VOCAB, (2, 5))
    output, row = (BaseModelOutput(last_hidden_state=x) for x in (hidden, hidden[:1]))
    packed = head.outputs(row, {"cu_seqlens": torch.tensor([0, 2, 5])}, labels=labels[:1])
    assert close(packed.loss, F.cross_entropy(whole[0, [0, 2, 3]], labels[0, [1, 3, 4]]), 1e-6)
    mean = F.cross_entropy(whole[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert close(head.outputs(output, {}, labels=labels).loss, mean, 1e-6)
    assert close(head.outputs(output, {}, labels=labels, num_items_in_batch=4).loss, mean * 2, 1e-6)
    assert "leave it out with labels" in raises(
        lambda: head.outputs(output, {}, labels=labels, logits_to_keep=1)
    )


@pytest.mark.parametrize(
    "task", ["sequence_classification", "multiple_choice", "token_classification", "pretraining"]
)
def test_dropout_before_scores_acts_in_training_only(task: str) -> None:
    model = CASE.ours(task, {"classifier_dropout_prob": 0.5})
    inputs = labelled(task, model, padded("right"))
    assert torch.equal(model(inputs)[-1], model(inputs)[-1])
    model.train()
    assert not torch.equal(model(inputs)[-1], model(inputs)[-1])


def test_choices_are_rows_of_one_batch() -> None:
    model, inputs, _ = split("multiple_choice")
    scores = model(inputs).logits
    assert scores.shape == (3, 2)
    for choice in range(2):
        alone = model({name: value[:, choice : choice + 1] for name, value in inputs.items()}).logits
        assert close(alone[:, 0], scores[:, choice])
    embedded = model.get_input_embeddings()(inputs.pop("input_ids"))
    positions = torch.arange(20).expand(3, 2, 20)
    assert close(model(inputs, inputs_embeds=embedded, position_ids=positions).logits, scores)
    assert raises(lambda: model(torch.ones(3, 20).long())) == (
        "multiple choice takes rows of choices (batch, choices, tokens), got (3, 20)"
    )


@pytest.mark.parametrize("task", ["sequence_classification", "pretraining", "token_classification"])
def test_packed_documents_are_scored_one_by_one(task: str) -> None:
    model, lengths = CASE.ours(task), (6, 2, 9)
    batch = packed_batch(lengths)
    separate = [model(ids) for ids in batch["input_ids"].split(lengths, dim=1)]
    found = model(batch)
    for name in found:
        dim = 0 if name in ("sop_logits", "logits") and task != "token_classification" else 1
        assert close(found[name], torch.cat([output[name] for output in separate], dim=dim)), name


def test_an_answer_is_sought_in_its_own_document() -> None:
    model, lengths = CASE.ours("question_answering"), (6, 2, 9)
    batch = packed_batch(lengths)
    starts, ends = torch.tensor([3, 2, 0]), torch.tensor([[5], [1], [8]])  # the second starts outside
    total = sum(
        model(ids, start_positions=start[None], end_positions=end, num_items_in_batch=1).loss
        for ids, start, end in zip(batch["input_ids"].split(lengths, dim=1), starts, ends, strict=True)
    )
    named = {"start_positions": starts, "end_positions": ends}
    assert close(model(batch, **named, num_items_in_batch=1).loss, total)
    borders = batch["cu_seqlens"]
    summed = model(
        batch, compute=lambda head, hidden: head.loss_sum(hidden, starts, ends, cu_seqlens=borders)
    )
    assert close(summed, total)
    summed.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model(batch, start_positions=starts).loss is None


def test_outputs_are_read_by_name_key_and_place() -> None:
    model = ours()
    ids = torch.arange(8).view(1, 8)
    output = model(ids, use_cache=False)
    assert output.loss is None
    assert output.keys() == ("logits",)
    assert output[0] is output.logits is output["logits"] is output.to_tuple()[0]
    assert "loss" not in output
    assert output.get("loss", 3) == 3
    assert raises(lambda: output["loss"]) == "'loss'"
    leaves, spec = torch.utils._pytree.tree_flatten(output)
    assert any(leaf is output.logits for leaf in leaves)
    assert torch.utils._pytree.tree_unflatten(leaves, spec).logits is output.logits
