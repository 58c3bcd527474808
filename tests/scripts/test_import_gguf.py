"""GGUF files become model folders: a real one answers, is tuned on, and equals another reader's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf as gguf_format
import numpy as np
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


def small(path: Path, *, architecture: str = "llama", words: str = "default", **more: np.ndarray) -> Path:
    """A GGUF file of a Llama with one layer, whose texts begin with BOS."""
    writer = gguf_format.GGUFWriter(path, architecture)
    tokens = ["<s>", "</s>", "a", "b", "ab"]
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(12)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    square, wide = np.arange(64, dtype=np.float32).reshape(8, 8), np.ones((12, 8), np.float32)
    tensors = {"token_embd": np.ones((5, 8), np.float32), "output_norm": np.ones(8, np.float32)}
    tensors |= {"output": np.full((5, 8), 2, np.float32)}
    layer = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square, "ffn_down": wide.T}
    layer |= {"ffn_gate": wide, "ffn_up": wide, "attn_norm": np.ones(8), "ffn_norm": np.ones(8)}
    tensors |= {f"blk.0.{name}": value for name, value in layer.items()}
    for name, value in (tensors | more).items():
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_small_file_becomes_a_folder(tmp_path: Path) -> None:
    import_gguf.import_gguf(small(tmp_path / "it.gguf"), tmp_path / "made", torch.bfloat16)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "made"),
        Tokenizer.load(tmp_path / "made"),
    )
    assert model.dtype is torch.bfloat16
    assert not model.config.tie_word_embeddings
    assert (model.head.weight == 2).all()
    attention = model.backbone.layers[0].self_attn
    assert attention.v_proj.weight[:, 0].tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert attention.q_proj.weight[:, 0].tolist() == [0, 16, 8, 24, 32, 48, 40, 56], "halves, not pairs"
    assert tokenizer.encode("abba") == [0, 4, 3, 2]
    assert tokenizer("ab", "a")["input_ids"] == [0, 4, 0, 2]
    with pytest.raises(CheckpointError, match="made: is there already; give a folder that is to be made"):
        import_gguf.import_gguf(tmp_path / "it.gguf", tmp_path / "made", torch.float32)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"architecture": "qwen3"}, "general.architecture is 'qwen3'; llama can be imported"),
        (
            {"words": "bloom"},
            "tokenizer.ggml.pre is 'bloom'; default, gpt-2, smollm, llama-bpe can be",
        ),
        ({"rope_freqs": np.ones(2)}, "holds rope_freqs.weight, the stretched positions of Llama 3.1"),
        (
            {"blk.0.attn_q_norm": np.ones(4)},
            "its tensors are not those of its configuration: model.la",
        ),
    ],
    ids=["architecture", "words", "positions", "tensors"],
)
def test_what_is_no_llama_is_refused(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(said)):
        import_gguf.import_gguf(small(tmp_path / "it.gguf", **given), tmp_path / "made", torch.float32)
    assert not (tmp_path / "made").exists()


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
