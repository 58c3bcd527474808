"""Runs that do not train: their figures, their files, their answers, on one rank and on two."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from conf.compose import RECIPES
from trainer.cli import run_command
from trainer.config import RunConfig
from trainer.evaluator import Evaluator
from trainer.sweeps.comparison import compared

ROOT = Path(__file__).resolve().parents[2]
TRAINED = (
    "+recipe=sft_llama",
    "model.preset=tiny",
    "processor.tokenizer.vocab_size=512",
    "data.max_length=96",
    "data.max_truncated=1",
    "training.max_steps=120",
    "optimizer.learning_rate=1e-2",
    "evaluation.eval_steps=120",
    "checkpoint.save_steps=120",
    "evaluation.per_device_eval_batch_size=16",
    "metrics={perplexity: {}, accuracy: {}}",
)
SHORT = ("+recipe=sft_llama", "data.max_length=96", "data.max_truncated=1")
FIGURES = {"eval_loss", "eval_perplexity", "eval_accuracy"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the shipped chat recipe, in small; it says a few words."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_command([*TRAINED, "callbacks.samples=null", f"output_dir={folder}"])
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, ...]:
    """The words that name two small test sources, of rows of very different lengths."""
    lines = (RECIPES / "data" / "chat" / "validation.jsonl").read_text().splitlines()
    for name, chosen in (("first", lines[:7]), ("second", lines[20:25])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(chosen) + "\n")
    return tuple(
        word
        for name in ("second", "first")
        for word in (f"data.test.{name}.path={name}.jsonl", f"data.test.{name}.format=chat")
    )


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "test_predictions.jsonl").read_text().splitlines()]


def results(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}_results.json").read_text())


# -- evaluate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [".", "checkpoint-120"])
def test_the_figures_are_those_that_the_training_logged(
    source: str, run: Path, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_optimizer(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("an optimizer was built")

    monkeypatch.setattr(torch.optim.Optimizer, "__init__", no_optimizer)
    words = (f"model.path={run / source}", "metrics={perplexity: {}, accuracy: {}}", "output_dir=out")
    done = train(*SHORT, *words, "task=evaluate", "evaluation.per_device_eval_batch_size=16")
    assert done.status == 0, done.error
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-2])
    found = results(done.folder, "eval")
    assert {name: found[name] for name in FIGURES} == {name: logged[name] for name in FIGURES}
    assert results(done.folder, "all") == found
    assert {path.name for path in done.folder.iterdir()} == {"eval_results.json", "all_results.json"}
    shown = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines())
    assert shown["eval_loss"] == str(round(found["eval_loss"], 4))
    assert shown["written"] == "out/eval_results.json"
    unpacked = train(*SHORT, words[0], "task=evaluate", "data.packing=false", "output_dir=unpacked")
    assert unpacked.results["eval_loss"] == pytest.approx(found["eval_loss"], rel=1e-6)


def test_a_run_that_is_evaluated_in_its_own_folder_stays_what_it_is(
    run: Path, train: Any, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-r", str(run), "run"], check=True, cwd=tmp_path)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    trained = results(Path("run"), "all")
    done = train(*SHORT, "model.path=run", "task=evaluate", "output_dir=run")
    assert done.status == 0, done.error
    changed = {
        path for path in Path("run").rglob("*") if path.is_file() and path.read_bytes() != before.get(path)
    }
    assert {path.name for path in changed} == {"eval_results.json", "all_results.json"}
    merged = results(Path("run"), "all")
    assert merged.keys() == trained.keys()
    assert {name: merged[name] for name in trained if not name.startswith("eval_")} == {
        name: value for name, value in trained.items() if not name.startswith("eval_")
    }
    resumed = train("resume=run/checkpoint-120", "training.max_steps=121")
    assert resumed.status == 0, resumed.error
    assert resumed.results["global_step"] == 121


@pytest.mark.parametrize(("option", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_for_the_model_in_memory_alone(
    option: str, dtype: torch.dtype, run: Path, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    called = Evaluator.__call__

    def watched(self: Any, model: Any, *more: Any) -> Any:
        seen.update(parameter.dtype for parameter in model.parameters())
        return called(self, model, *more)

    monkeypatch.setattr(Evaluator, "__call__", watched)
    weights = (run / "model.safetensors").read_bytes()
    words = (*SHORT, "task=evaluate", f"model.path={run}")
    half = train(*words, f"precision.{option}_full_eval=true", "output_dir=half")
    assert seen == {dtype}
    whole = train(*words, "output_dir=whole")
    assert half.results["eval_loss"] != whole.results["eval_loss"]
    assert half.results["eval_loss"] == pytest.approx(whole.results["eval_loss"], rel=2e-2)
    assert (run / "model.safetensors").read_bytes() == weights


def test_memory_and_determinism(run: Path, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    called = Evaluator.__call__

    def watched(self: Any, *args: Any) -> Any:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return called(self, *args)

    monkeypatch.setattr(Evaluator, "__call__", watched)
    options = ("logging.skip_memory_metrics=false", "training.full_determinism=true")
    done = train(*SHORT, "task=evaluate", f"model.path={run}", *options)
    assert done.status == 0, done.error
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()
    measured = {name for name in done.results if "_mem_" in name}
    deltas = ("alloc_delta", "peaked_delta")
    stages = {f"{stage}_mem_cpu_{delta}" for stage in ("init", "eval") for delta in deltas}
    assert measured == stages | {"before_init_mem_cpu"}


# -- predict -------------------------------------------------------------------------------------------


def test_predictions_stand_in_the_order_of_the_data(run: Path, sources: Sequence[str], train: Any) -> None:
    words = (*SHORT, *sources, "task=predict", f"model.path={run}", "evaluation.per_device_eval_batch_size=3")
    done = train(*words, "metrics={perplexity: {}}")
    assert done.status == 0, done.error
    lines = predictions(done.folder)
    places = [
        (name, f"{name}.jsonl:{n + 1}") for name, count in (("second", 5), ("first", 7)) for n in range(count)
    ]
    assert [(line["source"], line["place"]) for line in lines] == places
    found = results(done.folder, "test")
    for name in ("second", "first", ""):
        own = [line for line in lines if name in line["source"]]
        mean = sum(line["loss"] * line["tokens"] for line in own) / sum(line["tokens"] for line in own)
        prefix = f"test_{name}_" if name else "test_"
        assert mean == pytest.approx(found[f"{prefix}loss"], rel=1e-5)
        assert found[f"{prefix}perplexity"] == pytest.approx(torch.tensor(mean).exp().item(), rel=1e-4)
    assert done.out.splitlines()[-1].split() == ["written", "run/test_predictions.jsonl"]


def test_answers_are_those_of_the_reference_whatever_the_batch(
    run: Path, sources: Sequence[str], train: Any, tmp_path: Path
) -> None:
    options = tmp_path / "generation.json"
    options.write_text(json.dumps({"max_new_tokens": 24}))
    words = (*SHORT, *sources, "task=predict", f"model.path={run}", "generation.predict_with_generate=true")
    size = "evaluation.per_device_eval_batch_size"
    done = train(*words, f"generation.generation_config={options}", f"{size}=5", "output_dir=fives")
    assert done.status == 0, done.error
    lines = predictions(done.folder)
    assert len({line["generated"] for line in lines}) > 1
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    reference = transformers.AutoModelForCausalLM.from_pretrained(run)
    for line in lines:
        file, number = line["place"].rsplit(":", 1)
        messages = json.loads(Path(file).read_text().splitlines()[int(number) - 1])["messages"]
        answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        ids = tokenizer.apply_chat_template(messages[:answer], add_generation_prompt=True, return_dict=False)
        said = reference.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
        assert line["generated"] == tokenizer.decode(said.tolist(), skip_special_tokens=True).strip()
        assert line["prompt"] == tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert line["reference"].startswith(messages[answer]["content"][:10])
    for length in ((), ("generation.generation_max_length=60",)):
        alone = train(*words, *length, f"{size}=1", f"output_dir=alone{len(length)}")
        together = train(*words, *length, f"{size}=7", f"output_dir=together{len(length)}")
        assert alone.status == 0, alone.error
        texts = [[line["generated"] for line in predictions(each.folder)] for each in (alone, together)]
        assert texts[0] == texts[1]


def test_what_is_not_a_number_is_written_and_not_left_out(
    run: Path, sources: Sequence[str], train: Any, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-r", str(run), "broken"], check=True, cwd=tmp_path)
    file = tmp_path / "broken" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["model.norm.weight"].fill_(torch.nan)
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    done = train(*SHORT, *sources, "task=predict", "model.path=broken")
    assert done.status == 0, done.error
    assert {line["loss"] for line in predictions(done.folder)} == {"nan"}
    assert results(done.folder, "test")["test_loss"] != results(done.folder, "test")["test_loss"]


# -- before anything is done ---------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["evaluate", "predict"])
def test_check_says_what_would_be_done_and_writes_nothing(
    task: str, run: Path, sources: Sequence[str], train: Any, tmp_path: Path
) -> None:
    words = () if task == "evaluate" else (*sources, "generation.predict_with_generate=true")
    before = sorted(tmp_path.rglob("*"))
    done = train(*SHORT, *words, f"task={task}", f"model.path={run}", "check=true", "show=1")
    assert done.status == 0, done.error
    assert sorted(tmp_path.rglob("*")) == before
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines() if "  " in line)
    assert lines["model"] == f"{run}, 125,248 parameters"
    if task == "evaluate":
        assert lines["evaluate"] == "documents: 100 of chat"
        assert lines["results"] == "run/eval_results.json"
    else:
        assert lines["predict"] == "documents: 5 of second, 7 of first, and answers generated for them"
        assert lines["results"] == "run/test_results.json; test_predictions.jsonl too"
        assert "second, second.jsonl:1:" in done.out, "a document is shown"


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no data": (
        ("task=predict",),
        2,
        "data.test: task=predict needs a source; give data.test.NAME.path and .format.",
    ),
    "a file that is missing": (
        ("task=predict", "data.test.mine.path=nowhere.jsonl", "data.test.mine.format=chat"),
        4,
        "nowhere.jsonl: there is no such file; looked in ",
    ),
    "resume": (("task=evaluate", "resume=auto"), 2, "resume: 'auto' has no effect with task=evaluate; "),
    "a training option": (
        ("task=evaluate", "optimizer.learning_rate=1"),
        2,
        "optimizer.learning_rate: 1.0 has no effect with task=evaluate; leave it out.",
    ),
    "beams": (
        ("PREDICT", "generation.generation_num_beams=4"),
        2,
        "generation.generation_num_beams: 4 beams need a search that is not built; leave it out or at 1.",
    ),
    "no room": (
        ("PREDICT", "generation.generation_max_length=3"),
        2,
        "generation.generation_max_length: 3 leaves no room after a prompt of ",
    ),
    "a generation that cannot be": (
        ("PREDICT", "generation.generation_config=cold.json"),
        2,
        "generation.generation_config: temperature: must be greater than 0, got 0.",
    ),
    "sampling that is not asked for": (
        ("PREDICT", "generation.generation_config=idle.json"),
        2,
        "generation.generation_config: top_p has no effect without do_sample: true; leave it out.",
    ),
    "a file in the way": (
        ("task=evaluate", "output_dir=idle.json"),
        2,
        "output_dir: 'idle.json' is a file; choose a folder.",
    ),
    "a model without weights": (
        ("task=evaluate", "model.path=empty"),
        4,
        "empty holds neither model.safetensors nor ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be(case: str, run: Path, sources: Sequence[str], train: Any, tmp_path: Path) -> None:
    words, status, said = WRONG[case]
    (tmp_path / "cold.json").write_text('{"do_sample": true, "temperature": 0}')
    (tmp_path / "idle.json").write_text('{"bos_token_id": 1, "top_p": 0.5, "transformers_version": "5"}')
    (tmp_path / "empty").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "empty" / name).write_bytes((run / name).read_bytes())
    predicts = (*sources, "task=predict", "generation.predict_with_generate=true")
    words = (*(predicts if words[0] == "PREDICT" else words[:1]), *words[1:])
    path = () if any("model.path" in word for word in words) else (f"model.path={run}",)
    done = train(*SHORT, *path, "output_dir=out", *words, f"check={case != 'no room'}".lower())
    assert done.status == status, done.error
    assert str(done.error).startswith(said)
    assert not list((tmp_path / "out").glob("*"))


# -- sweeps --------------------------------------------------------------------------------------------


def test_models_are_ranked_by_a_sweep(run: Path, train: Any, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(run), "worse"], check=True, cwd=tmp_path)
    file = tmp_path / "worse" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["model.norm.weight"].mul_(0.5)
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    done = train("--multirun", *SHORT, f"model.path=worse,{run}", "task=evaluate", "output_dir=sweep")
    assert done.status == 0, done.error
    ledger = [json.loads(line) for line in Path("sweep/sweep.jsonl").read_text().splitlines()]
    assert [line["metric"] for line in ledger] == [line["eval_loss"] for line in ledger]
    shown = [line.split() for line in done.out.splitlines()]
    assert shown[-4] == ["rank", "job", "eval_loss", "differences"]
    assert shown[-3][:2] == ["1", "1"], "the model as it was trained"


def test_a_sweep_compares_what_the_recipe_calls_best() -> None:
    def of(task: str, wanted: str | None, greater: bool | None, **measured: float) -> dict[str, Any]:
        evaluation = SimpleNamespace(metric_for_best_model=wanted, greater_is_better=greater)
        config: RunConfig = SimpleNamespace(task=task, evaluation=evaluation)  # type: ignore[assignment]
        return compared(config, measured)

    loss = {"metric_name": "eval_loss", "metric": 2.0, "greater_is_better": False}
    assert of("evaluate", None, None, eval_loss=2.0) == loss
    assert of("evaluate", "eval_accuracy", True, eval_loss=2.0) == loss, "it is not measured"
    accuracy = {"metric_name": "test_accuracy", "metric": 0.5, "greater_is_better": True}
    assert of("predict", "eval_accuracy", None, test_loss=2.0, test_accuracy=0.5) == accuracy
    assert of("predict", "accuracy", False, test_loss=2.0, test_accuracy=0.5)["greater_is_better"] is False


# -- two ranks -----------------------------------------------------------------------------------------


def launch(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [*launcher, "-m", "trainer", *words]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("task", ["evaluate", "predict"])
def test_two_ranks_find_what_one_does(
    task: str, run: Path, sources: Sequence[str], train: Any, tmp_path: Path
) -> None:
    """Seven and five rows, two a rank: in the last round a rank has none, or fewer."""
    more = ("metrics={perplexity: {}, accuracy: {}}",)
    if task == "predict":
        more = (*more, *sources, "generation.predict_with_generate=true")
    words = (*SHORT, *more, f"task={task}", f"model.path={run}", "evaluation.per_device_eval_batch_size=2")
    one = train(*words, "output_dir=one")
    assert one.status == 0, one.error
    done = launch(*words, "output_dir=two", "logging.log_level_replica=info", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = results(Path("one"), "all"), results(Path("two"), "all")
    timeless = {name for name in ours if not name.endswith(("_runtime", "_per_second"))}
    assert {n: theirs[n] for n in timeless} == pytest.approx({n: ours[n] for n in timeless}, rel=1e-9)
    if task == "predict":
        same, other = predictions(Path("one")), predictions(Path("two"))
        texts = ("source", "place", "tokens", "prompt", "generated", "reference")
        assert [[line[n] for n in texts] for line in other] == [[line[n] for n in texts] for line in same]
        assert [line["loss"] for line in other] == pytest.approx([line["loss"] for line in same], rel=1e-6)
    shown = done.stdout.splitlines()
    loss = re.compile(rf"{SPLIT[task]}_loss .*")
    assert sum(bool(loss.match(line)) for line in shown) == 1
    assert any(line.startswith("rank 1: ") for line in shown), "the replica speaks if it is asked to"


SPLIT = {"evaluate": "eval", "predict": "test"}
