"""The command's contract: exit statuses, what is written and what is not, what torch is not needed for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from conf import compose, logging
from tests.trainer.saved_runs import lines
from trainer import cli
from trainer.ranks import LaunchEnvironment
from trainer.run_folder import overlay

ROOT = Path(__file__).resolve().parents[2]


def tree(folder: Path) -> dict[str, int]:
    """Every file below a folder with its time of change."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """``main(*words)``: the command as the shell calls it; its exit status and its lines on stderr."""

    def called(*words: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, capsys.readouterr().err.splitlines()

    return called


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- exit statuses -------------------------------------------------------------------------------------


def test_the_last_line_on_stderr_states_the_exit_status(main: Any, tiny: Sequence[str], here: Path) -> None:
    quiet = ("callbacks.progress=null", "output_dir=run")
    assert main(*tiny, *quiet) == (0, [])
    status, said = main(*tiny, *quiet)
    assert (status, said[-1]) == (2, "train.py: exit status 2")
    assert said[0].startswith("train.py: output_dir: 'run' holds a run already; add resume=auto")
    explode = (
        "optimizer=sgd",
        "optimizer.learning_rate=1e30",
        "training.max_steps=5",
        "training.max_grad_norm=0",
    )
    status, said = main(*tiny, *quiet[:1], *explode, "output_dir=other")
    assert (status, said[-1]) == (3, "train.py: exit status 3")
    assert "is not finite; no update was applied" in said[0]
    status, said = main(*tiny, "data.train.chat.path=nowhere.jsonl")
    assert (status, said[-1]) == (4, "train.py: exit status 4")
    assert said[0].startswith("train.py: nowhere.jsonl: there is no such file; looked in ")


def test_several_problems_are_one_line_each(main: Any, tiny: Sequence[str], here: Path) -> None:
    status, said = main(*tiny, "trainin.seed=3", "optimizer.learning_rate=fast", "evaluation.eval_delay=x")
    assert status == 2
    assert said == [
        "train.py: optimizer.learning_rate: a number is wanted, 'fast' was given.",
        "train.py: evaluation.eval_delay: a number is wanted, 'x' was given.",
        "train.py: trainin: no such key; did you mean 'training'?",
        "train.py: exit status 2",
    ]


def test_ctrl_c_before_the_training(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: Sequence[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_command", interrupted)
    status, said = main("+recipe=sft_llama")
    assert status == 130
    assert said == [
        "train.py: stopped at once; nothing was saved after the last checkpoint.",
        "train.py: exit status 130",
    ]


BAD = [
    ["+recipe=sft_lama"],
    ["+recipe=sft_llama", "optimizer=sdg"],
    ["+recipe=sft_llama", "trainin.max_steps=3"],
    ["+recipe=sft_llama", "training.max_steps=many"],
    ["+recipe=sft_llama", "evaluation.eval_strategy=no", "evaluation.eval_steps=3"],
    ["training.max_steps=3"],
    ["--mulitrun", "+recipe=sft_llama"],
    ["+recipe=sft_llama", "resume=auto"],
    ["+recipe=sft_llama", "resume=nowhere/checkpoint-3"],
    ["resume=auto", "output_dir=nowhere"],
    ["plugins=nowhere.py", "+recipe=sft_llama"],
    ["--multirun", "+recipe=sft_llama", "optimizer.learning_rate=1,x"],
]


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_a_wrong_configuration_writes_nothing(
    words: list[str], main: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKPOT_CACHE", str(here / "cache"))
    status, said = main(*words)
    assert (status, said[-1]) == (2, "train.py: exit status 2")
    assert list(here.iterdir()) == []


def test_what_a_configuration_lacks_is_said_together(main: Any, here: Path) -> None:
    _, said = main("training.max_steps=3")
    assert said == [
        "train.py: model.preset: choose one, or give model.path; known are llama2-7b, llama3-8b, small, "
        "tiny, tinyllama-1.1b.",
        "train.py: processor.tokenizer: give a path to one, or train: bpe.",
        "train.py: data.train: at least one source is required; give data.train.NAME.path and .format.",
        "train.py: exit status 2",
    ]


# -- what needs no torch ---------------------------------------------------------------------------------

PROBE = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from trainer import cli

slow = ("torch", "datasets", "transformers", "accelerate", "pandas", "pyarrow")
seen = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["train.py", *words]
    status, out, err = 0, io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        status = stop.code
    loaded = [name for name in slow if name in sys.modules]
    seen.append({"words": words, "status": status, "loaded": loaded, "out": out.getvalue()})
print(json.dumps(seen))
"""
GOOD = [
    [],
    ["--help"],
    ["-h"],
    ["+recipe=sft_llama", "--cfg", "job"],
    ["+recipe=sft_llama", "--cfg", "job", "--resolve", "optimizer=sgd", "training.max_steps=7"],
]


def test_errors_and_help_load_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([*GOOD, *BAD])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert [one["status"] for one in seen] == [0] * len(GOOD) + [2] * len(BAD)
    assert [one for one in seen if one["loaded"]] == []
    listed, helped, helped_too, shown, _ = (one["out"] for one in seen[: len(GOOD)])
    assert helped == helped_too
    assert "sft_llama" in listed
    assert "resume=auto" in helped
    assert "optimizer: adafactor, adafactor_torch, adagrad, " in helped
    assert "preset: small" in shown
    assert "hydra:" not in shown
    assert list(tmp_path.iterdir()) == []


def test_every_line_of_the_help_is_a_command_that_composes() -> None:
    from conf.compose import rewrite

    names = {"NAME": "sft_llama", "RUN/checkpoint-500": "x", "RUN": "x", "FOLDER": "x"}
    lines = [line.strip().split("  ")[0] for line in cli.HELP.splitlines() if line.startswith("  train.py +")]
    assert len(lines) >= 6
    for line in lines:
        for name, value in names.items():
            line = line.replace(name, value)
        words = [rewrite(word, {}, ()) for word in line.split()[1:] if word not in ("--cfg", "job")]
        assert compose.compose(words) is not None


# -- check=true --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("precision.tf32=true", "precision.tf32: True has no effect on a cpu device; leave it out."),
        (
            "training.torch_empty_cache_steps=2",
            "training.torch_empty_cache_steps: 2 has no effect on a CPU, which keeps no cache; leave it out.",
        ),
        (
            "training.use_liger_kernel=true",
            "training.use_liger_kernel: Liger's kernels need a GPU, and there is none here; set it to false.",
        ),
    ],
)
def test_check_says_what_this_device_cannot_do(
    train: Any, tiny: Sequence[str], tmp_path: Path, word: str, sentence: str
) -> None:
    done = train(*tiny, word, "parallel.use_cpu=true", "check=true", "output_dir=run")
    assert str(done.error) == sentence
    assert not (tmp_path / "run").exists()


def test_check_prints_the_plan_and_writes_nothing_but_the_cache(
    train: Any, tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "cache"))
    words = [word for word in tiny if not word.startswith("data.max_length")]
    done = train(*words, "data.max_length=96", "check=true", "show=1", "output_dir=run")
    assert done.status == 0, done.error
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    for name in (
        "steps",
        "training data",
        "tokens",
        "warm-up",
        "evaluate",
        "save",
        "parameters",
        "peak memory",
    ):
        assert any(line.startswith(f"{name}  ") for line in done.out.splitlines()), name
    assert re.search(r"^chat, \S+train\.jsonl:\d+:$", done.out, re.MULTILINE), "a document that is trained on"
    assert "\x1b[" in done.out, "a document in colours"
    before = tree(tmp_path)
    again = train(*words, "data.max_length=96", "check=true", "output_dir=run")
    assert again.status == 0
    assert tree(tmp_path) == before, "the second time all of it is there"


# -- which run this is -------------------------------------------------------------------------------------


def test_a_run_folder_is_not_used_twice(train: Any, tiny: Sequence[str], tmp_path: Path) -> None:
    assert train(*tiny).status == 0
    before = tree(tmp_path)
    done = train(*tiny)
    assert done.status == 2
    text = "output_dir: 'run' holds a run already; add resume=auto to go on with it, or choose another."
    assert str(done.error) == text
    assert tree(tmp_path) == before


def test_resume_auto_starts_afresh_where_there_is_nothing(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, "output_dir=run", "resume=auto")
    assert done.status == 0
    assert "run has no checkpoint yet: this is a fresh start." in done.out


SAVED = ("checkpoint.save_steps=1", "checkpoint.save_total_limit=null", "training.max_steps=3")


def _damage(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_skipped(train: Any, tiny: Sequence[str]) -> None:
    whole = train(*tiny, *SAVED)
    weights = (whole.folder / "model.safetensors").read_bytes()
    _damage(whole.folder / "checkpoint-3")
    done = train(*tiny, *SAVED, "output_dir=run", "resume=auto")
    assert done.status == 0, done.error
    assert "checkpoint-3 is skipped: " in done.out
    assert "set aside set-aside-checkpoint-3-1, which is later than where this run goes on." in done.out
    assert "going on from run/checkpoint-2 (step 2)." in done.out
    assert (done.folder / "model.safetensors").read_bytes() == weights
    for step in (2, 1):
        _damage(done.folder / f"checkpoint-{step}")
    shutil.rmtree(done.folder / "checkpoint-3")
    before = tree(done.folder)
    done = train(*tiny, *SAVED, "output_dir=run", "resume=auto")
    assert done.status == 4
    assert str(done.error).startswith("run has no valid checkpoint: checkpoint-2 is skipped: ")
    assert "checkpoint-1 is skipped: " in str(done.error)
    assert tree(done.folder) == before
    done = train("resume=run/checkpoint-1")
    assert done.status == 4
    assert "checkpoint-1" in str(done.error)


def test_resuming_an_earlier_checkpoint_sets_the_later_ones_aside(train: Any, tiny: Sequence[str]) -> None:
    whole = train(*tiny, *SAVED)
    logged = lines(whole.folder)
    done = train("resume=run/checkpoint-1")  # no recipe: the configuration is the saved one
    assert done.status == 0, done.error
    names = {path.name for path in done.folder.glob("*checkpoint*")}
    kept = {f"checkpoint-{step}" for step in (1, 2, 3)}
    assert names == {*kept, "set-aside-checkpoint-2-1", "set-aside-checkpoint-3-1"}
    assert lines(done.folder) == logged
    assert not any(".new" in path.name for path in done.folder.iterdir())


def test_going_on_for_longer(train: Any, tiny: Sequence[str]) -> None:
    train(*tiny)
    done = train("resume=run/checkpoint-2", "training.max_steps=3", "callbacks.progress=null")
    assert done.status == 0, done.error
    assert done.results["global_step"] == 3
    assert "training.max_steps is now 3; it was 2." in done.out
    assert [line["step"] for line in done.metrics if "loss" in line] == [2, 3]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.max_length=64", "data.max_length: the checkpoint was trained with 128, 64 was given; "),
        ("training.seed=1", "training.seed: the checkpoint was trained with 42, 1 was given; "),
        ("model.preset=small", "model.preset: the checkpoint was trained with 'tiny', 'small' was given; "),
        (
            "optimizer=sgd",
            "optimizer.name: the checkpoint was trained with 'adamw_torch_fused', 'sgd' was given; ",
        ),
        (
            "data.train.chat.weight=2",
            "data.train.chat.weight: the checkpoint was trained with 1.0, 2.0 was given; ",
        ),
        ("training.gradient_accumulation_steps=2", "training: a step had 4 rows"),
    ],
)
def test_a_resumed_run_is_the_same_run(word: str, said: str, train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny)
    before = tree(done.folder)
    for more in ((), ("check=true",)):
        again = train("resume=run/checkpoint-2", "training.max_steps=3", word, *more)
        assert again.status == 2
        assert str(again.error).startswith(said)
        assert tree(done.folder) == before


def test_what_may_differ_is_listed(train: Any, tiny: Sequence[str]) -> None:
    train(*tiny)
    words = ("training.max_steps=3", "optimizer.learning_rate=1e-4", "data.dataloader_num_workers=1")
    split = ("training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2")
    done = train("resume=run/checkpoint-2", *words, *split)
    assert done.status == 0, done.error
    for note in (
        "optimizer.learning_rate is now 0.0001; it was 0.001.",
        "training.max_steps is now 3; it was 2.",
        "data.dataloader_num_workers is now 1; it was 0.",
        "training.per_device_train_batch_size is now 2; it was 4.",
    ):
        assert note in done.out.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resume=run"], "resume: 'run' is a run, not a checkpoint; give output_dir=run resume=auto."),
        (
            ["resume=nowhere"],
            "resume: there is no folder 'nowhere'; give a checkpoint's, or `auto` with output_dir.",
        ),
        (
            ["+recipe=sft_llama", "output_dir=run/config.json", "resume=auto"],
            "output_dir: 'run/config.json' is a file; choose a folder.",
        ),
        (["resume=auto"], "resume: 'auto' needs the run's folder; give output_dir=RUN as well."),
        (
            ["resume=auto", "output_dir=new"],
            "resume: new has no checkpoint to take a configuration from; name a recipe.",
        ),
        (
            ["resume=run/checkpoint-2", "output_dir=new"],
            "output_dir: 'new' is not the run that 'run/checkpoint-2' belongs to; leave it out, or start a "
            "new run from those weights with model.path=run/checkpoint-2.",
        ),
    ],
)
def test_a_resume_that_cannot_be(
    words: list[str], said: str, train: Any, tiny: Sequence[str], tmp_path: Path
) -> None:
    train(*tiny)
    before = tree(tmp_path)
    done = train(*words)
    assert (done.status, str(done.error)) == (2, said)
    assert tree(tmp_path) == before


def test_starting_anew_from_a_finished_run(train: Any, tiny: Sequence[str]) -> None:
    first = train(*tiny)
    assert "start anew from it  train.py +recipe=sft_llama model.path=run" in first.out
    words = [word for word in tiny if not word.startswith(("model.", "processor."))]
    done = train(*words, "model.path=run", "output_dir=second", "optimizer.learning_rate=0")
    assert done.status == 0, done.error
    assert "model.path=run gives weights, tokenizer and chat template, as far as it has them." in done.out
    assert (done.folder / "model.safetensors").read_bytes() == (
        first.folder / "model.safetensors"
    ).read_bytes()
    assert (done.folder / "tokenizer.json").read_bytes() == (first.folder / "tokenizer.json").read_bytes()


def test_the_saved_configuration_with_the_command_line_on_top() -> None:
    saved = {
        "model": {"preset": "tiny"},
        "callbacks": {"samples": {"name": "samples"}},
        "check": True,
        "resume": "x",
    }
    composed = {
        "model": {"preset": "small"},
        "training": {"max_steps": 3},
        "callbacks": {},
        "optimizer": {"name": "sgd"},
    }
    line = dict.fromkeys(("training.max_steps", "callbacks.samples", "optimizer"), "command line")
    assert overlay(saved, composed, {**line, "model.preset": "recipe"}) == {
        "model": {"preset": "tiny"},
        "callbacks": {},
        "training": {"max_steps": 3},
        "optimizer": {"name": "sgd"},
    }
    assert saved["check"], "what was given is as it was"


def test_a_run_without_a_folder_gets_one_of_its_own(tiny: Sequence[str], here: Path) -> None:
    from datetime import datetime

    from trainer.run_folder import default_path

    now = datetime(2026, 1, 2, 3, 4, 5)
    first = Path("runs") / "sft_llama" / "20260102-030405"
    assert default_path("sft_llama", now) == first
    (here / first).mkdir(parents=True)
    assert default_path("sft_llama", now) == first.with_name("20260102-030405-1")
    cli.run_command([*tiny, "callbacks.progress=null"])
    (made,) = (path for path in (here / "runs" / "sft_llama").iterdir() if path.name != first.name)
    assert (made / "model.safetensors").is_file()


# -- what is said, and by whom ---------------------------------------------------------------------------

NOTE = "data.dataloader_pin_memory: true has no effect on a CPU"


@pytest.mark.parametrize(
    ("level", "reports", "warns"),
    [
        ("passive", True, True),
        ("debug", True, True),
        ("info", True, True),
        ("warning", False, True),
        ("error", False, False),
    ],
)
def test_the_level_says_what_is_said(
    level: str, reports: bool, warns: bool, train: Any, tiny: Sequence[str]
) -> None:
    before = logging.get_verbosity()
    note = ("data.dataloader_pin_memory=true", "training.max_steps=1")
    done = train(*tiny, *note, "callbacks.progress=null", f"logging.log_level={level}")
    assert done.status == 0, done.error
    assert ("finished  " in done.out, "steps  " in done.out, NOTE in done.out) == (reports, reports, warns)
    assert done.err == ""
    assert logging.get_verbosity() == before, "a command leaves no trace"


def test_a_passive_level_is_that_of_the_environment(
    train_in_process_of_its_own: Any, tiny: Sequence[str]
) -> None:
    words = (*tiny, "check=true", "callbacks.progress=null")
    assert "steps  " in train_in_process_of_its_own(*words).out
    assert train_in_process_of_its_own(*words, env={"STOCKPOT_VERBOSITY": "error"}).out == ""


# (rank, rank on its node, what is asked for) -> how it begins what it says, None for silence.
SPEAKERS = [
    (0, 0, {}, ""),
    (1, 1, {}, None),
    (2, 0, {}, "rank 2: "),
    (2, 0, {"log_on_each_node": False}, None),
    (0, 0, {"log_on_each_node": False}, ""),
    (1, 1, {"log_level_replica": "info"}, "rank 1: "),
    (2, 0, {"log_on_each_node": False, "log_level_replica": "debug"}, "rank 2: "),
    (0, 0, {"log_level": "error", "log_level_replica": "info"}, None),
]


@pytest.mark.parametrize(("rank", "local_rank", "asked", "begins"), SPEAKERS)
def test_who_speaks_on_two_nodes_of_two(
    rank: int,
    local_rank: int,
    asked: dict[str, Any],
    begins: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment = LaunchEnvironment(rank=rank, local_rank=local_rank, world_size=4, local_world_size=2)
    monkeypatch.setattr(cli, "launch_environment", lambda: environment)
    composed = compose.compose(["+recipe=sft_llama", *(f"logging.{k}={v}" for k, v in asked.items())])
    assert composed is not None
    command = cli.Command(composed, (), {})
    with ExitStack() as undo:
        command.listen_to(command.decode(), undo)
        command.say("hello")
    assert capsys.readouterr().out == ("" if begins is None else f"{begins}hello\n")


def test_results_hold_the_training_and_its_memory(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, "logging.skip_memory_metrics=false")
    assert done.status == 0, done.error
    trained = json.loads((done.folder / "train_results.json").read_text())
    assert trained == done.results
    measured = {name for name in trained if "_mem_" in name}
    stages = {f"{stage}_mem_cpu_{d}_delta" for stage in ("init", "train") for d in ("alloc", "peaked")}
    assert measured == stages | {"before_init_mem_cpu"}
    assert trained["before_init_mem_cpu"] > 2**20
    assert {"train_loss", "eval_loss", "epoch", "global_step", "total_flos"} <= trained.keys()
    last = done.metrics[-1]
    assert trained["train_loss"] == last["train_loss"]


def test_kernels_that_cannot_run_are_refused_before_the_training(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, "training.use_liger_kernel=true", "check=true")
    said = "training.use_liger_kernel: Liger's kernels need a GPU, and there is none here; set it to false."
    assert (done.status, str(done.error)) == (2, said)
    assert not done.folder.exists()


# -- another folder's packages -------------------------------------------------------------------------------


def test_packages_of_the_current_folder_do_not_shadow_ours(
    train_in_process_of_its_own: Any, tiny: Sequence[str], tmp_path: Path
) -> None:
    for name in ("models", "conf", "callbacks", "trainer_like"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('this is the wrong package')\n")
    (tmp_path / "yaml.py").write_text("raise RuntimeError('this is the wrong module')\n")
    done = train_in_process_of_its_own(*tiny, "training.max_steps=1", "data.max_length=80")
    assert done.status == 0, done.err
    assert done.results["global_step"] == 1
    assert "saved checkpoint-1" in done.err, "plain lines where there is no terminal"
