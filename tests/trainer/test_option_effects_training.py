"""What the options of the run, the training, the optimizer and the number formats change."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn

import models.kernels
import models.layers.checkpointing
import trainer.assemble
from conf.errors import ConfigError
from models import LlamaConfig, build_model
from tests.trainer.small_program import (
    ROWS,
    Tagger,
    by_hand,
    files,
    lines,
    listening,
    program,
    rows,
    seen_rows,
    steps,
    tagger,
    trained,
    weights,
)
from trainer.arguments import nested
from trainer.ranks import ranks as machine

# -- the run -------------------------------------------------------------------------------------------


def test_a_run_is_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "chosen"
    trained(tmp_path, output_dir=str(folder))
    assert files(folder) >= {"config.yaml", "model.safetensors", "metrics.jsonl"}


def test_the_flags_choose_the_task(train: Any, tiny: tuple[str, ...], tmp_path: Path) -> None:
    """By the table, each names a task; what a task leaves in its folder is its own."""
    asked = {flag: nested({flag: True})["task"] for flag in ("do_train", "do_eval", "do_predict")}
    done = train(*tiny, f"task={asked['do_train']}")
    assert done.status == 0, done.error
    assert "train_results.json" in files(done.folder)
    rest = [word for word in tiny if not word.startswith(("model.", "training.", "processor."))]
    source = "{mine: {path: data/chat/validation.jsonl, format: chat}}"
    for flag, words, wanted in (
        ("do_eval", (), "eval_results.json"),
        ("do_predict", (f"+data.test={source}",), "test_predictions.jsonl"),
    ):
        words = (f"task={asked[flag]}", f"model.path={done.folder}", f"output_dir={flag}", *words)
        found = train(*rest, *words)
        assert found.status == 0, found.error
        assert wanted in files(found.folder)
        assert not files(found.folder) & {"train_results.json", "model.safetensors"}


def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole = trained(tmp_path, save_steps=2)
    path = str(whole.output_dir / "checkpoint-2")
    begun: list[int] = []
    callback = listening(on_train_begin=lambda state: begun.append(state.global_step))
    parts = {"callbacks": [callback], "model": tagger(seed=5)}
    again = trained(
        tmp_path, save_steps=2, output_dir=str(whole.output_dir), resume_from_checkpoint=path, parts=parts
    )
    assert begun == [2]
    assert torch.equal(weights(again), weights(whole))


# -- steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "micro_batches", "updates"),
    [
        ({}, 3, 3),
        ({"num_train_epochs": 2}, 6, 6),
        ({"num_train_epochs": 0.5}, 2, 2),
        ({"max_steps": 4}, 4, 4),
        ({"per_device_train_batch_size": 4}, 6, 6),
        ({"gradient_accumulation_steps": 3}, 3, 1),
    ],
    ids=str,
)
def test_how_many_steps(given: dict[str, Any], micro_batches: int, updates: int, tmp_path: Path) -> None:
    seen: list[int] = []
    model = tagger(watch=lambda ids, logits: seen.append(len(ids)))
    made = trained(tmp_path, parts={"model": model}, **given)
    assert len(seen) == micro_batches
    assert set(seen) == {given.get("per_device_train_batch_size", 8)}
    assert made.state.global_step == updates


def test_gradients_are_clipped_to_a_norm(tmp_path: Path) -> None:
    """One step of SGD is as long as the rate times the norm that is left."""
    before = weights(SimpleNamespace(model=tagger()))
    one_step = {"optim": "sgd", "max_steps": 1, "lr_scheduler_type": "constant"}
    lengths = {
        norm: torch.linalg.vector_norm(weights(trained(tmp_path, max_grad_norm=norm, **one_step)) - before)
        for norm in (0.001, 0.0)
    }
    whole = lines(trained(tmp_path, **one_step), "grad_norm")[0]
    assert whole > 0.001
    assert lengths[0.001] == pytest.approx(1e-2 * 0.001, rel=1e-2)
    assert lengths[0.0] == pytest.approx(1e-2 * whole, rel=1e-4)


def test_the_seed_draws_weights_and_order(tmp_path: Path) -> None:
    made = {seed: program(tmp_path, seed=seed, parts={"model_init": Tagger}) for seed in (1, 2)}
    assert not torch.equal(weights(made[1]), weights(made[2]))
    orders = {seed: seen_rows(tmp_path, seed=seed) for seed in (1, 2)}
    assert orders[1] != orders[2]


def test_the_seed_of_the_data_is_one_of_its_own(tmp_path: Path) -> None:
    orders = [seen_rows(tmp_path, seed=1, data_seed=seed) for seed in (None, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    first, second = (
        program(tmp_path, seed=1, data_seed=seed, parts={"model_init": Tagger}) for seed in (1, 2)
    )
    assert torch.equal(weights(first), weights(second)), "weights are the other seed's affair"


# -- what is done to a model ---------------------------------------------------------------------------

LLAMA = {
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def llama() -> Any:
    return build_model(LlamaConfig(**LLAMA), "causal_lm", seed=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointed_layers_are_computed_twice(checkpointing: bool, tmp_path: Path) -> None:
    model, calls = llama(), []
    model.backbone.layers[0].mlp.register_forward_pre_hook(lambda *told: calls.append(1))
    made = trained(tmp_path, parts={"model": model}, gradient_checkpointing=checkpointing, max_steps=2)
    assert len(calls) == (4 if checkpointing else 2)
    calls.clear()
    model.train()
    model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    assert len(calls) == 1, "it is off again afterwards"
    assert made.state.global_step == 2


def test_options_of_checkpointing_reach_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def noting(layer: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        seen.append(options)
        return layer(*inputs)

    monkeypatch.setattr(models.layers.checkpointing, "checkpoint", noting)
    for options in (None, {"use_reentrant": True}, {"preserve_rng_state": False}):
        trained(
            tmp_path,
            parts={"model": llama()},
            max_steps=1,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs=options,
        )
    first, second, third = seen[::2]
    assert (first["use_reentrant"], first["preserve_rng_state"]) == (False, True)
    assert second["use_reentrant"] is True
    assert third["preserve_rng_state"] is False


def test_full_determinism_is_on_while_training(tmp_path: Path) -> None:
    seen: list[bool] = []
    is_on = torch.are_deterministic_algorithms_enabled
    for on in (False, True):
        callback = listening(on_step_end=lambda state: seen.append(is_on()))
        trained(tmp_path, full_determinism=on, max_steps=1, parts={"callbacks": [callback]})
    assert seen == [False, True]
    assert not is_on(), "it is as it was afterwards"


def test_smoothed_labels_are_torchs(tmp_path: Path) -> None:
    """The first step's loss, of weights that are known."""
    first = {name: torch.tensor([row[name] for row in rows()]) for name in ("input_ids", "labels")}
    given = {"per_device_train_batch_size": ROWS, "max_steps": 1}
    logits = tagger()(first["input_ids"])["logits"].detach().flatten(0, 1)
    for smoothing in (0.0, 0.2):
        (loss,) = lines(trained(tmp_path, label_smoothing_factor=smoothing, **given), "loss")
        wanted = F.cross_entropy(logits, first["labels"].flatten(), label_smoothing=smoothing)
        assert loss == pytest.approx(wanted.item(), rel=1e-6)


def test_noise_while_training(tmp_path: Path) -> None:
    """Its first loss is another one, its evaluations and its model are not."""
    parts = {"eval_dataset": rows(4)}
    given = {"eval_on_start": True, "max_steps": 1}
    quiet, noisy = (
        trained(tmp_path, neftune_noise_alpha=alpha, parts=parts, **given) for alpha in (None, 50.0)
    )
    assert lines(quiet, "loss") != lines(noisy, "loss")
    assert lines(quiet, "eval_loss") == lines(noisy, "eval_loss")
    assert not noisy.model._forward_pre_hooks
    assert not noisy.model.words._forward_hooks


def test_each_rank_divides_by_its_own_tokens(tmp_path: Path, capsys: Any) -> None:
    """As one of two ranks, of which the other has three times as many tokens, would weigh a step."""

    def reduced(values: list[float]) -> list[float]:
        return [4 * value for value in values]

    divisors = {}
    for across in (True, False):
        made = trained(tmp_path, average_tokens_across_devices=across, max_steps=1)
        run = made.run
        run.ranks = SimpleNamespace(all_reduce=reduced, world_size=2)
        batch = {name: torch.tensor([rows(1)[0][name]]) for name in ("input_ids", "labels")}
        run.weigh([batch])
        divisors[across] = run.divisors["loss"]
    assert divisors == {True: 16, False: 8}, "the mean over two ranks of what is divided by 4 tokens"
    said = "average_tokens_across_devices: it has no effect on a single process."
    assert capsys.readouterr().err.count(said) == 2


class Small(nn.Module):
    """A tagger that runs out of memory beyond some rows."""

    def __init__(self, most: int):
        super().__init__()
        self.inside, self.most, self.failed = tagger(), most, 0

    def forward(self, input_ids: Any, labels: Any = None, num_items_in_batch: Any = None) -> Any:
        if len(input_ids) > self.most:
            self.failed += 1
            raise torch.OutOfMemoryError("out of memory")
        return self.inside(input_ids, labels, num_items_in_batch)


def test_smaller_micro_batches_where_memory_runs_out(tmp_path: Path) -> None:
    whole = trained(tmp_path, parts={"model": Small(8)}, max_steps=4)
    model = Small(3)
    given = {"auto_find_batch_size": True, "max_steps": 4, "save_steps": 2}
    found = trained(tmp_path, parts={"model": model}, **given)
    assert model.failed == 2, "8 and 4 rows were too many"
    assert found.state.train_batch_size == 2
    assert found.state.global_step == 4
    torch.testing.assert_close(weights(found), weights(whole), rtol=1e-5, atol=1e-7)
    again = Small(3)
    trained(
        tmp_path,
        parts={"model": again},
        output_dir=str(found.output_dir),
        resume_from_checkpoint=str(found.output_dir / "checkpoint-2"),
        **given,
    )
    assert again.failed == 0, "the size found is in the checkpoint"
    assert torch.equal(again.inside.words.weight, model.inside.words.weight)
    with pytest.raises(
        ConfigError, match=r"^auto_find_batch_size: memory does not even suffice for a micro-"
    ):
        trained(tmp_path, parts={"model": Small(0)}, auto_find_batch_size=True)
    with pytest.raises(torch.OutOfMemoryError):
        trained(tmp_path, parts={"model": Small(3)})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, None),
        ({"torch_compile": True}, {"backend": "inductor", "mode": None}),
        ({"torch_compile_mode": "max-autotune"}, {"backend": "inductor", "mode": "max-autotune"}),
        ({"torch_compile_backend": "aot_eager"}, {"backend": "aot_eager", "mode": None}),
    ],
    ids=str,
)
def test_compilation_is_asked_of_torch(
    given: dict[str, Any], wanted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: asked.append(options))
    trained(tmp_path, max_steps=1, **given)
    assert asked == ([] if wanted is None else [wanted])


def test_a_backend_compiles_graphs(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    plain = trained(tmp_path)
    counters.clear()
    made = trained(tmp_path, torch_compile_backend="aot_eager")
    assert counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(weights(made), weights(plain))
    assert made.model._compiled_call_impl is None, "the model is given back as it was"
    saved = load_file(made.output_dir / "model.safetensors")
    assert saved.keys() == dict(tagger().named_parameters()).keys(), "no prefix of a wrapper"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"torch_compile_backend": "aot_eagr"},
            "torch_compile_backend: there is no 'aot_eagr'; did you mean",
        ),
        ({"torch_compile_mode": "fast"}, "torch_compile_mode: Unrecognized mode=fast, should be one of"),
        ({"torch_empty_cache_steps": 2}, "torch_empty_cache_steps: 2 has no effect on a CPU, which keeps no"),
        ({"tf32": True}, "tf32: True has no effect on a cpu device; leave it out."),
        ({"tf32": False}, "tf32: False has no effect on a cpu device; leave it out."),
        ({"use_liger_kernel": True}, "use_liger_kernel: Liger's kernels need a GPU, and there is none here"),
    ],
    ids=str,
)
def test_what_a_cpu_cannot_do_is_refused(
    given: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError) as error:
        trained(tmp_path, parts={"model": llama()}, **given)
    assert str(error.value).startswith(sentence)


def test_a_devices_cache_is_emptied_every_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU, for which it is refused, had a cache."""
    emptied: list[int] = []
    monkeypatch.setattr(trainer.assemble, "refuse_on_device", lambda config: None)
    monkeypatch.setattr(torch.accelerator, "device_index", lambda index: nullcontext())
    monkeypatch.setattr(torch.accelerator.memory, "empty_cache", lambda: emptied.append(1))
    for every, times in ((None, 0), (2, 3), (3, 2)):
        emptied.clear()
        trained(tmp_path, torch_empty_cache_steps=every, num_train_epochs=2)
        assert len(emptied) == times


def test_ligers_kernels_replace_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels themselves are tested with the models; here, that they are asked for."""
    asked: list[Any] = []
    monkeypatch.setattr(models.kernels, "check_liger", lambda config: None)
    monkeypatch.setattr(models.kernels, "use_liger", lambda model, config: asked.append(config) or ["done"])
    on = {"use_liger_kernel": True}
    for given in ({}, on, {**on, "liger_kernel_config": {"rope": False}}):
        trained(tmp_path, parts={"model": llama()}, max_steps=1, **given)
    assert asked == [None, {"rope": False}]
    with pytest.raises(ConfigError, match="it replaces layers of this library's models, and Tagger is none"):
        trained(tmp_path, **on)


def test_a_models_cache_is_set_while_training(tmp_path: Path, capsys: Any) -> None:
    """A foreign model's own switch; what is saved is the model's own value."""
    config = transformers.LlamaConfig(**LLAMA, use_cache=True)
    for use_cache in (False, True):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
        seen: list[bool] = []
        model.register_forward_pre_hook(lambda module, told: seen.append(module.config.use_cache))  # noqa: B023
        made = trained(tmp_path, parts={"model": model}, max_steps=1, use_cache=use_cache, save_steps=1)
        assert seen == [use_cache]
        assert model.config.use_cache is True, "it is given back"
        for folder in (made.output_dir, made.output_dir / "checkpoint-1"):
            assert json.loads((folder / "config.json").read_text())["use_cache"] is True
    capsys.readouterr()
    trained(tmp_path, use_cache=True, max_steps=1)
    assert "use_cache: it has no effect on Tagger." in capsys.readouterr().err


# -- optimizer and schedule ----------------------------------------------------------------------------

# Three steps by a loop written here, over the rows in their order.
IN_ORDER = {"lr_scheduler_type": "constant", "max_steps": 3}


def _decayed(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices}, {"params": others, "weight_decay": 0.0}]


def adamw(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.AdamW(_decayed(model), **{"lr": 1e-2, "weight_decay": 0.0, **options})


def sgd(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(_decayed(model), lr=1e-2, **options)


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are taken as they come."""
    from trainer.data.batches import Schedule

    made = Schedule.__init__

    def unshuffled(self: Any, *args: Any, **named: Any) -> None:
        made(self, *args, **{**named, "shuffle": False})

    monkeypatch.setattr(Schedule, "__init__", unshuffled)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    ("given", "make"),
    [
        ({}, adamw()),
        ({"learning_rate": 3e-2}, adamw(lr=3e-2)),
        ({"weight_decay": 0.5}, adamw(weight_decay=0.5)),
        ({"adam_beta1": 0.5}, adamw(betas=(0.5, 0.999))),
        ({"adam_beta2": 0.5}, adamw(betas=(0.9, 0.5))),
        ({"adam_epsilon": 0.1}, adamw(eps=0.1)),
        ({"optim": "sgd"}, sgd()),
        ({"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true"}, sgd(momentum=0.9, nesterov=True)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_optimizer_and_its_options(given: dict[str, Any], make: Any, tmp_path: Path) -> None:
    made = trained(tmp_path, **IN_ORDER, **given)
    wanted = by_hand(make, tagger())
    torch.testing.assert_close(weights(made), wanted, rtol=1e-5, atol=1e-7)
    if given:
        assert not torch.allclose(weights(made), weights(trained(tmp_path, **IN_ORDER)), rtol=1e-4)


def test_layers_that_an_optimizer_projects(tmp_path: Path) -> None:
    layers = [name for name, module in tagger().named_modules() if isinstance(module, nn.Linear)]
    for optim_target_modules in ([layers[0]], layers, "all-linear"):
        given = {"optim": "galore_adamw", "optim_args": "rank=2"}
        made = trained(tmp_path, max_steps=1, optim_target_modules=optim_target_modules, **given)
        (targeted,) = (g for g in made.optimizer.param_groups if g.get("role") == "targeted")
        chosen = layers if optim_target_modules == "all-linear" else optim_target_modules
        assert targeted["param_names"] == [f"{name}.weight" for name in chosen]


def cosine(cycles: float) -> list[float]:
    return [max(0.0, 0.5 * (1 + math.cos(2 * math.pi * cycles * step / 3))) for step in range(3)]


@pytest.mark.parametrize(
    ("given", "factors"),
    [
        ({}, [1, 2 / 3, 1 / 3]),
        ({"lr_scheduler_type": "constant"}, [1, 1, 1]),
        ({"lr_scheduler_type": "cosine"}, cosine(0.5)),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1.0}}, cosine(1.0)),
        ({"warmup_steps": 2}, [0, 1 / 2, 1]),
        ({"warmup_steps": 0.5}, [0, 1 / 2, 1]),
        ({"warmup_ratio": 0.3}, [0, 1, 1 / 2]),
    ],
    ids=str,
)
def test_the_schedule_and_its_options(given: dict[str, Any], factors: list[float], tmp_path: Path) -> None:
    made = trained(tmp_path, **given)
    assert lines(made, "learning_rate") == pytest.approx([1e-2 * factor for factor in factors])
    assert steps(made, "learning_rate") == [1, 2, 3]


# -- number formats and machines -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "dtype"),
    [({}, torch.float32), ({"bf16": True}, torch.bfloat16), ({"fp16": True}, torch.float16)],
    ids=str,
)
def test_half_precision_is_computed_in(given: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()
    model = tagger(watch=lambda ids, logits: seen.add(logits.dtype))
    made = trained(tmp_path, parts={"model": model}, save_steps=3, **given)
    assert seen == {dtype}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    state = json.loads((made.output_dir / "checkpoint-3/training/state.json").read_text())
    assert bool(state["scaler"]) == ("fp16" in given), "the scale of the loss"


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ({}, torch.float32),
        ({"bf16_full_eval": True}, torch.bfloat16),
        ({"fp16_full_eval": True}, torch.float16),
    ],
    ids=str,
)
def test_an_evaluation_of_its_own_is_in_half_precision(
    given: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    seen: list[torch.dtype] = []
    model = tagger(watch=lambda ids, logits: seen.append(logits.dtype))
    parts = {"model": model, "eval_dataset": rows(4)}
    made = trained(tmp_path, parts=parts, max_steps=1, eval_strategy="epoch", **given)
    assert seen == [torch.float32] * 2, "training, and the evaluation in it"
    before = weights(made).clone()
    made.evaluate()
    assert seen[2:] == [dtype]
    assert torch.equal(weights(made), before)


@pytest.mark.parametrize("use_cpu", [False, True])
def test_the_cpu_is_used_beside_an_accelerator(
    use_cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):  # noqa: N818
        """Ends the start at the place where the device is chosen."""

    def chosen(**options: Any) -> None:
        raise Asked(options["cpu"])

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(machine, "Accelerator", chosen)
    with pytest.raises(Asked) as asked:
        program(tmp_path, use_cpu=use_cpu)
    assert asked.value.args == (use_cpu,)
