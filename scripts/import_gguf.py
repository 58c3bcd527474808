"""Turns a GGUF file into a model folder that `train.py +recipe=sft_llama model.path=FOLDER` goes on from.

python scripts/import_gguf.py MODEL.gguf FOLDER [--dtype bfloat16]

Quantized weights are computed back to numbers, by the `gguf` package (pip install 'stockpot[gguf]'). The
architecture of Llama and byte-level BPE tokenizers are read; whatever is not is said in one sentence, and the
exit status is 2. Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402
from tokenizers import Regex, pre_tokenizers  # noqa: E402

from conf.errors import CheckpointError, StockpotError  # noqa: E402
from models import LlamaConfig, build_model  # noqa: E402
from models.loading import torch_dtype  # noqa: E402
from models.weights import PermuteForRope, checkpoint_names, save_tensors  # noqa: E402
from processors.tokenizers import Tokenizer  # noqa: E402
from processors.tokenizers.kinds import byte_level  # noqa: E402

# A tensor's name in a GGUF file, without its block and ending, and in a checkpoint.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class GGUF:
    """The metadata and tensors of a GGUF file; ``CheckpointError`` where it is none, or of another kind."""

    def __init__(self, path: Path):
        try:
            from gguf import GGUFReader
        except ImportError:
            raise CheckpointError("GGUF files need the package gguf; pip install 'stockpot[gguf]'.") from None
        try:
            self.reader = GGUFReader(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read as a GGUF file ({error}).") from error
        self.path, self.fields = path, self.reader.fields

    def get(self, name: str, default: Any = None) -> Any:
        """A value of the metadata, or ``default``."""
        return self.fields[name].contents() if name in self.fields else default

    def need(self, name: str) -> Any:
        """A value of the metadata that must be there."""
        if name not in self.fields:
            raise CheckpointError(f"{self.path}: has no {name}, which a model cannot be made without.")
        return self.get(name)

    def one_of(self, name: str, known: Mapping[str, Any] | tuple[str, ...], default: Any = None) -> str:
        """A value of the metadata that this script knows."""
        value = self.get(name, default)
        if value not in known:
            raise CheckpointError(f"{self.path}: {name} is {value!r}; {', '.join(known)} can be imported.")
        return value

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of every weight, computed back to fp32."""
        from gguf import dequantize

        for tensor in self.reader.tensors:
            yield tensor.name, torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())


def config_of(gguf: GGUF) -> LlamaConfig:
    """The configuration that the metadata describes."""
    gguf.one_of("general.architecture", ("llama",))
    gguf.one_of("llama.rope.scaling.type", ("none",), "none")
    names = {tensor.name for tensor in gguf.reader.tensors}
    if "rope_freqs.weight" in names:
        raise CheckpointError(
            f"{gguf.path}: holds rope_freqs.weight, the stretched positions of Llama 3.1 and later; "
            "models with plain rotary positions can be imported."
        )
    if "llama.expert_count" in gguf.fields:
        raise CheckpointError(f"{gguf.path}: has experts; a Llama without them can be imported.")
    heads = gguf.need("llama.attention.head_count")
    return LlamaConfig(
        vocab_size=len(gguf.need("tokenizer.ggml.tokens")),
        hidden_size=gguf.need("llama.embedding_length"),
        intermediate_size=gguf.need("llama.feed_forward_length"),
        num_hidden_layers=gguf.need("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=gguf.get("llama.attention.head_count_kv", heads),
        head_dim=gguf.get("llama.attention.key_length"),
        max_position_embeddings=gguf.need("llama.context_length"),
        # A file holds it in fp32, where 1e-5 is 9.999999747378752e-06.
        rms_norm_eps=float(f"{gguf.need('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": gguf.get("llama.rope.freq_base", 10000.0)},
        tie_word_embeddings="output.weight" not in names,
        attention_bias="blk.0.attn_q.bias" in names,
        mlp_bias="blk.0.ffn_up.bias" in names,
        bos_token_id=gguf.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=gguf.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=gguf.get("tokenizer.ggml.padding_token_id"),
    )


def checkpoint_key(name: str) -> str:
    """``blk.3.attn_q.weight`` to ``model.layers.3.self_attn.q_proj.weight``; what is unknown stays."""
    block, part, ending = re.fullmatch(r"(?:blk\.(\d+)\.)?(.+?)(\.\w+)", name).groups()  # type: ignore[union-attr]
    prefix = "" if block is None else f"model.layers.{block}."
    return f"{prefix}{NAMES.get(part, part)}{ending}"


def tensors_of(gguf: GGUF, config: LlamaConfig, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """(checkpoint key, tensor) of every weight; ``CheckpointError`` unless they are a Llama's exactly."""
    expected = set(checkpoint_names(build_model(config, "causal_lm", device="meta")).values())
    found = {checkpoint_key(tensor.name) for tensor in gguf.reader.tensors}
    if expected != found:
        listed = ", ".join(sorted(expected ^ found)[:5])
        raise CheckpointError(f"{gguf.path}: its tensors are not those of its configuration: {listed}.")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in gguf.weights():
        key = checkpoint_key(name)
        if count := heads.get(key.split(".")[-2]):
            [[tensor]] = PermuteForRope(count).apply([[tensor]], [key], config)
        yield key, tensor.to(dtype)


def _words(pre: str) -> Any:
    """How a byte-level tokenizer parts a text before it merges."""
    match pre:
        case "default" | "gpt-2":
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        case "smollm":
            digits = pre_tokenizers.Digits(individual_digits=True)
            return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(Regex(_LLAMA3_WORDS), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, plain])


def tokenizer_of(gguf: GGUF) -> Tokenizer:
    """The tokenizer that the metadata holds, with its special tokens and chat template."""
    gguf.one_of("tokenizer.ggml.model", ("gpt2",))
    pre = gguf.one_of("tokenizer.ggml.pre", ("default", "gpt-2", "smollm", "llama-bpe"), "default")
    tokens, kinds = gguf.need("tokenizer.ggml.tokens"), gguf.need("tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ", 1)) for pair in gguf.need("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = byte_level.pipeline(vocabulary, merges)
    backend.model.ignore_merges = pre == "llama-bpe"
    backend.pre_tokenizer = _words(pre)
    backend.add_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED])
    parts = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {part: gguf.get(f"tokenizer.ggml.{name}_token_id") for part, name in parts.items()}
    special = {f"{part}_token": tokens[index] for part, index in ids.items() if index is not None}
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    template = gguf.get("tokenizer.chat_template")
    tokenizer = Tokenizer(
        backend,
        special_tokens=special,
        extra_special_tokens=[token for token in control if token not in special.values()],
        chat_templates={} if template is None else {"default": template},
        model_max_length=gguf.get("llama.context_length"),
    )
    if gguf.get("tokenizer.ggml.add_bos_token", False):
        tokenizer.add_bos_token = True
    return tokenizer


def import_gguf(path: Path, folder: Path, dtype: torch.dtype) -> None:
    """Make a model folder of a GGUF file; it must not be there yet."""
    if folder.exists():
        raise CheckpointError(f"{folder}: is there already; give a folder that is to be made.")
    gguf = GGUF(path)
    config, tokenizer = config_of(gguf), tokenizer_of(gguf)
    tensors = tensors_of(gguf, config, dtype)
    first = next(tensors)  # what does not fit is said before anything is written
    folder.mkdir(parents=True)
    save_tensors([first, *tensors], lambda name: (folder / name).open("wb"))
    written = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    written["dtype"] = str(dtype).removeprefix("torch.")
    LlamaConfig.from_dict(written).save_pretrained(folder)
    tokenizer.save(folder)
    ids = {f"{name}_token_id": getattr(config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    known = {name: value for name, value in ids.items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="MODEL.gguf")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--dtype", default="float32", help="of the weights that are written: float32")
    given = parser.parse_args()
    try:
        dtype = torch_dtype(given.dtype)
        assert dtype is not None
        import_gguf(given.file, given.folder, dtype)
    except StockpotError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"{given.folder} holds the model; train.py +recipe=sft_llama model.path={given.folder}")


if __name__ == "__main__":
    main()
