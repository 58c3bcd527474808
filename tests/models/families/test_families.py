"""Every family against an independent implementation on the same random weights; a new one gets all of it."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import CATALOG, AutoConfig, TaskModel, build_model
from models.auto import Composition
from models.tasks import family_table
from models.weights import named_checkpoint_tensors
from tests.models.families.family import FamilyCase, labelled, padded, probe
from tests.models.oracle import assert_gradients_agree, close

CASES: dict[str, FamilyCase] = {
    name: import_module(f"tests.models.families.{name.replace('-', '_')}").CASE for name in CATALOG
}
TASKS = [(family, task) for family, case in CASES.items() for task in case.oracles]
SHAPES = [(family, shape) for family, case in CASES.items() for shape in case.shapes]
CACHING = [family for family, case in CASES.items() if case.caches]


def main_task(case: FamilyCase) -> str:
    """The task with a vocabulary."""
    return next(task for task in ("causal_lm", "masked_lm") if task in case.oracles)


def compare(case: FamilyCase, task: str | None, fields: dict[str, Any], *, attn: str, side: str) -> None:
    """Every output, the loss and every gradient."""
    model = case.ours(task, fields, attn=attn).train()
    oracle = case.theirs(task, model, attn=attn).train()
    batch = padded(side, pad=model.config.pad_token_id or 0, token_types=case.token_types)
    batch = labelled(task, model, batch)
    found, expected = model(batch), oracle(**batch)
    mask = batch["attention_mask"]
    compared = 0
    for name, value in expected.items():
        if isinstance(value, Tensor):
            real = mask.bool() if mask.dim() == 2 and value.shape[:2] == mask.shape[:2] else ...
            assert close(found[name][real], value[real]), name
            compared += 1
    assert compared
    losses = (found.get("loss"), expected.get("loss"))
    if task is None:
        losses = (probe(found, mask), probe(expected, mask))
    losses[0].backward()
    losses[1].backward()
    assert_gradients_agree(model, oracle)


@pytest.mark.parametrize(("family", "shape"), SHAPES)
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_shapes_equal_the_oracle(family: str, shape: str, attn: str, side: str) -> None:
    case = CASES[family]
    compare(case, main_task(case), dict(case.shapes[shape]), attn=attn, side=side)


@pytest.mark.parametrize(("family", "task"), TASKS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_tasks_equal_the_oracle(family: str, task: str | None, side: str) -> None:
    compare(CASES[family], task, {}, attn="sdpa", side=side)


def test_every_task_is_compared() -> None:
    for family, case in CASES.items():
        assert set(case.oracles) == set(family_table(family).TASKS), family


@pytest.mark.parametrize("family", CASES)
def test_defaults_equal_the_oracle(family: str) -> None:
    case = CASES[family]
    ours, theirs = case.config(), case.oracle_config()
    for field in dataclasses.fields(ours):
        if field.name in ("extra", "architectures", "num_labels", "rope_parameters") or not hasattr(
            theirs, field.name
        ):
            continue
        value = getattr(theirs, field.name)
        mine = getattr(ours, field.name)
        assert mine == value or list(mine or ()) == value or mine is None, field.name


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_hidden_states_and_attentions_equal_the_oracle(family: str, task: str | None) -> None:
    case = CASES[family]
    model = case.ours(task, attn="eager")
    oracle = case.theirs(task, model, attn="eager")
    batch = padded("right", token_types=case.token_types)
    if task == "multiple_choice":
        batch = {name: value[:, None] for name, value in batch.items()}
    found = model(batch, output_hidden_states=True, output_attentions=True)
    expected = oracle(**batch, output_hidden_states=True, output_attentions=True)
    real = batch["attention_mask"].flatten(0, -2).bool()
    for name in ("hidden_states", "attentions"):
        assert len(found[name]) == len(expected[name])
        for a, b in zip(found[name], expected[name], strict=True):
            if name == "attentions":  # (B, H, T, S): rows of real queries
                a, b = a.transpose(1, 2), b.transpose(1, 2)
            assert close(a[real], b[real]), name


@pytest.mark.parametrize(("family", "task"), TASKS)
@pytest.mark.parametrize("shape", ["first", "last"])
def test_checkpoints_cross_both_ways(family: str, task: str | None, shape: str, tmp_path: Path) -> None:
    case = CASES[family]
    fields = list(case.shapes.values())[0 if shape == "first" else -1]
    model = case.ours(task, fields)
    model.save_pretrained(tmp_path / "ours")
    oracle, report = case.oracles[task].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    oracle.save_pretrained(tmp_path / "theirs")
    back = Composition(task=task, family=family).from_pretrained(tmp_path / "theirs")
    expected = dict(named_checkpoint_tensors(model))
    found = dict(named_checkpoint_tensors(back))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    state = oracle.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("family", CACHING)
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "none"])
def test_cached_equals_uncached_and_the_oracle(family: str, attn: str, side: str) -> None:
    case = CASES[family]
    model = case.ours("causal_lm", case.causal, attn=attn)
    oracle = case.theirs("causal_lm", model, attn=attn)
    batch = padded("left", pad=model.config.pad_token_id or 0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if side == "none":
        ids, mask = ids[1:2], mask[1:2]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ends = (12, 15, *range(16, 21))
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        expected = oracle(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        cache, start, parts = None, 0, []
        for end in ends:
            place = slice(start, end)
            out = model(
                ids[:, place],
                attention_mask=mask[:, :end],
                position_ids=positions[:, place],
                past_key_values=cache,
                use_cache=cache is None or end % 2 == 0,  # one that is given is looked at in any case
            )
            cache, start = out.past_key_values, end
            parts.append(out.logits)
    assert cache.get_seq_length() == ids.shape[1]
    real = mask.bool()
    assert close(whole[real], expected[real])
    assert close(torch.cat(parts, dim=1)[real], whole[real])


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention"])
def test_packed_documents_equal_separate_ones(family: str, attn: str) -> None:
    case = CASES[family]
    model = case.ours(main_task(case), case.causal if main_task(case) == "causal_lm" else {}, attn=attn)
    lengths = (7, 1, 20, 19)
    ids = torch.randint(4, 96, (1, sum(lengths)), generator=torch.Generator().manual_seed(2))
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    with torch.no_grad():
        packed = model(ids, cu_seqlens=borders).logits
        separate = [model(part).logits for part in ids.split(lengths, dim=1)]
    assert close(packed, torch.cat(separate, dim=1), 1e-6)


@pytest.mark.parametrize("family", CASES)
def test_embeddings_may_be_given_instead_of_ids(family: str) -> None:
    case = CASES[family]
    model = case.ours(main_task(case))
    ids = torch.arange(4, 28).view(2, 12)
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=embedded)


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_number(family: str, use_reentrant: bool) -> None:
    case, gradients = CASES[family], []
    for recompute in (False, True):
        model = case.ours(main_task(case)).train()
        batch = labelled(main_task(case), model, padded("right", token_types=case.token_types))
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model(batch).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert (plain is None) == (recomputed is None)
        assert plain is None or torch.equal(plain, recomputed)


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_a_model_made_on_the_meta_device_runs_after_to_empty(family: str, task: str | None) -> None:
    config = CASES[family].config.preset("tiny")
    late = build_model(config, task, device="meta")
    assert all(parameter.is_meta for parameter in late.parameters())
    late.to_empty(device="cpu").init_weights(7)
    direct = build_model(config, task, seed=7)
    for (name, a), b in zip(late.named_parameters(), direct.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.isfinite().all(), name


@pytest.mark.parametrize("family", CASES)
def test_configurations_come_back(family: str, tmp_path: Path) -> None:
    case = CASES[family]
    for fields in case.shapes.values():
        config = case.config(**{**case.small, **fields, "num_labels": 5})
        config.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize("family", CASES)
def test_bf16_follows_the_oracle(family: str) -> None:
    case = CASES[family]
    task = main_task(case)
    model = case.ours(task)
    oracle = case.theirs(task, model).bfloat16()
    model.cast(torch.bfloat16)
    ids = torch.arange(4, 52).view(2, 24)
    found, expected = model(ids).logits.float(), oracle(ids).logits.float()
    apart = (found - expected).abs().amax(dim=-1) > 4e-2 * expected.abs().max()
    assert apart.float().mean() <= case.flips


@pytest.mark.parametrize("family", CASES)
def test_a_backbone_is_compiled_as_one_graph(family: str) -> None:
    case = CASES[family]
    # Of two layers; in half precision, without which torch compiles no mixture of experts.
    backbone = case.ours(None, {"num_hidden_layers": 2}).cast(torch.bfloat16).backbone
    batch = padded("left", token_types=case.token_types)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    assert torch.equal(compiled(**batch).last_hidden_state, backbone(**batch).last_hidden_state)


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_a_documented_name_tells_its_models(family: str, task: str | None) -> None:
    model: TaskModel = build_model(CASES[family].config.preset("tiny"), task, device="meta")
    assert isinstance(model, Composition(task=task, family=family))
    assert not isinstance(model, Composition(task="nothing", family=family))
