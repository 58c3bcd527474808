"""Whole runs: from a folder that another library wrote, streamed, in bf16, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from conf.errors import CheckpointError
from trainer.cli import run_command

TINY = (
    "+recipe=sft_llama",
    "data.max_length=128",
    "data.max_truncated=1",
    "training.max_steps=4",
    "logging.logging_steps=1",
    "evaluation.eval_steps=2",
    "checkpoint.save_steps=2",
    "callbacks.samples.max_new_tokens=4",
)
RANDOM = (*TINY, "model.preset=tiny", "processor.tokenizer.vocab_size=512")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    run_command([*RANDOM, f"output_dir={run}"])
    return run


def test_a_run_folder_and_each_checkpoint_load_elsewhere(finished: Path) -> None:
    for folder in (finished, finished / "checkpoint-4"):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], add_generation_prompt=True
        )
        ids = torch.tensor([ids["input_ids"] if isinstance(ids, dict | transformers.BatchEncoding) else ids])
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert model.generation_config.eos_token_id in (end, [end])
        assert torch.isfinite(model(input_ids=ids).logits).all()


def test_a_folder_of_another_library_is_a_start(finished: Path, tmp_path: Path) -> None:
    """Weights, configuration, tokenizer and template are the folder's; a first step at rate 0 shows it."""
    start = tmp_path / "start"
    transformers.AutoModelForCausalLM.from_pretrained(finished).save_pretrained(start, max_shard_size="100KB")
    transformers.AutoTokenizer.from_pretrained(finished).save_pretrained(start)
    assert len(list(start.glob("model-*.safetensors"))) > 1
    for name, path in (("ours", finished), ("theirs", start)):
        run_command([*TINY, f"model.path={path}", f"output_dir={tmp_path / name}"])
    assert losses(tmp_path / "ours") == losses(tmp_path / "theirs")
    assert losses(tmp_path / "ours")[0] < losses(finished)[0]


def test_a_typed_chat_template_wins_over_the_folders_own(finished: Path, tmp_path: Path) -> None:
    own, file = (finished / "chat_template.jinja").read_text(), tmp_path / "mine.jinja"
    words = [*TINY, f"model.path={finished}"]
    for text in (
        own.replace("<|im_start|>", "<|im_start|>the "),
        own.replace("<|im_start|>", "<|im_start|>a "),
    ):
        file.write_text(text)  # the second under the same name: nothing cached of the first is taken for it
        run = tmp_path / str(len(text))
        run_command([*words, f"processor.chat_template={file}", f"output_dir={run}"])
        assert (run / "chat_template.jinja").read_text() == text
    run_command([*words, f"output_dir={tmp_path / 'own'}"])
    assert (tmp_path / "own" / "chat_template.jinja").read_text() == own


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        run_command([*TINY, f"model.path={tmp_path}", f"output_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_streaming_trains_and_resumes_exactly(tmp_path: Path) -> None:
    words = [*RANDOM, "data.streaming=true", "data.shuffle_block=64", "training.max_steps=6"]
    for name in ("unbroken", "resumed"):
        run_command([*words, f"output_dir={tmp_path / name}"])
    run_command([f"resume={tmp_path / 'resumed' / 'checkpoint-2'}"])
    first, second = (tmp_path / name / "model.safetensors" for name in ("unbroken", "resumed"))
    assert first.read_bytes() == second.read_bytes()
    assert losses(tmp_path / "unbroken") == losses(tmp_path / "resumed")


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(finished: Path, tmp_path: Path) -> None:
    run_command([*RANDOM, "precision=bf16", f"output_dir={tmp_path / 'run'}"])
    assert losses(tmp_path / "run") != losses(finished)
    assert losses(tmp_path / "run") == pytest.approx(losses(finished), rel=1e-2)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype"] == "float32"


def test_gradient_checkpointing_changes_no_number(finished: Path, tmp_path: Path) -> None:
    run_command([*RANDOM, "training.gradient_checkpointing=true", f"output_dir={tmp_path / 'run'}"])
    assert losses(tmp_path / "run") == losses(finished)


def test_mixture_trains_on_every_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = "data.train.novel={path: data/austen/validation.txt, format: text, weight: 0.5}"
    run_command([*RANDOM, extra, "data.max_length=64", f"output_dir={tmp_path / 'run'}", "check=true"])
    plan = capsys.readouterr().out
    run_command([*RANDOM, "data.max_length=64", f"output_dir={tmp_path / 'run'}", "check=true"])
    documents = [
        int(text.split("documents")[0].split()[-1].replace(",", ""))
        for text in (plan, capsys.readouterr().out)
    ]
    assert documents[0] - documents[1] > 100
    assert not (tmp_path / "run").exists(), "a check writes nothing"
