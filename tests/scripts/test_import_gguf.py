"""GGUF files become model folders: a real one answers, is tuned on, and equals another reader's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from conf.errors import CheckpointError
from models import AutoModelForCausalLM
from processors.rendering import ChatTemplate, stop_ids
from processors.tokenizers import Tokenizer
from scripts import import_gguf
from tests.real_models import SMOLLM2, fetched

ROOT = Path(__file__).resolve().parents[2]
TEXT = "Hello world 12345, it's naïve café 漢字 😀\n\n  x <|im_start|>user"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, quantized to four bits by others."""
    return fetched(SMOLLM2, tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def folder(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script makes of it."""
    made = tmp_path_factory.mktemp("imported") / "smollm2"
    command = [sys.executable, str(ROOT / "scripts/import_gguf.py"), str(gguf), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"train.py +recipe=sft_llama model.path={made}")
    return made


def test_it_answers_a_question(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), Tokenizer.load(folder)
    prompt = ChatTemplate(tokenizer).encode([{"role": "user", "content": "What is the capital of France?"}])
    ids = torch.tensor([prompt])
    cache, answer = None, []
    with torch.no_grad():
        while len(answer) < 24 and (not answer or answer[-1] not in stop_ids(tokenizer)):
            output = model(ids, past_key_values=cache, use_cache=True)
            cache, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
            answer.append(int(ids))
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."


def test_weights_and_tokens_equal_another_readers(folder: Path, gguf: Path) -> None:
    given = {"gguf_file": gguf.name}
    theirs = transformers.AutoTokenizer.from_pretrained(gguf.parent, **given)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode(TEXT) == theirs(TEXT)["input_ids"]
    assert transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] == tokenizer.encode(TEXT)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **given)(ids).logits
        assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, expected)


def test_it_is_tuned_by_the_chat_recipe(folder: Path, train: Any) -> None:
    words = ("data.max_length=64", "data.max_truncated=1", "evaluation=none", "checkpoint=none")
    done = train(
        *("+recipe=sft_llama", f"model.path={folder}", *words, "callbacks.samples=null"),
        *("training.max_steps=4", "training.per_device_train_batch_size=1", "optimizer.learning_rate=1e-4"),
        *("logging.logging_steps=1", "schedule=constant", "training.gradient_accumulation_steps=2"),
    )
    assert done.status == 0, done.error
    losses = [line["loss"] for line in done.metrics if "loss" in line]
    assert len(losses) == 4
    assert max(losses) < 6, "far below the 10.8 of a model that knows nothing"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGML and nothing more", "cannot be read as a GGUF file"),
        (b"", "cannot be read as a GGUF file"),
    ],
)
def test_what_is_no_gguf_file_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "it.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        import_gguf.import_gguf(tmp_path / "it.gguf", tmp_path / "made", torch.float32)
    assert not (tmp_path / "made").exists()
