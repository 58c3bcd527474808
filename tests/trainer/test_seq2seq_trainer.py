"""Predictions that are generated: by a model's own ``generate``, compared with the reference, and by ours."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from conf.errors import ConfigError
from models import AutoModelForCausalLM
from models.llama.config import LlamaConfig
from tests.trainer.programs import LLAMA, VOCABULARY, Classifier, arguments, points, tokens
from trainer import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer

BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
}


@pytest.fixture(scope="module")
def pair(quiet_reference: None) -> transformers.EncoderDecoderModel:
    """Two BERTs, the second a decoder that looks at the first."""
    torch.manual_seed(0)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**BERT),
        transformers.BertConfig(**BERT, is_decoder=True, add_cross_attention=True),
    )
    model = transformers.EncoderDecoderModel(config)
    for owner in (model.config, model.generation_config):
        owner.decoder_start_token_id, owner.eos_token_id, owner.pad_token_id = 1, 2, 0
    return model.eval()


def texts(count: int = 5) -> list[dict[str, Any]]:
    return [{"input_ids": row["input_ids"], "labels": row["input_ids"][:6]} for row in tokens(count)]


def seq2seq(folder: Path, **given: Any) -> Seq2SeqTrainingArguments:
    usual = {"per_device_eval_batch_size": 3, "use_cpu": True, "disable_tqdm": True}
    return Seq2SeqTrainingArguments(output_dir=str(folder), **{**usual, **given})


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({"generation_max_length": 9}, {}),
        ({"generation_num_beams": 2, "generation_max_length": 9}, {}),
        ({"generation_max_length": 9}, {"max_length": 7}),
        ({"generation_max_length": 9}, {"max_new_tokens": 4}),
        ({}, {"num_beams": 3, "max_new_tokens": 5}),
    ],
)
def test_predictions_are_generated_as_in_the_reference(
    options: dict[str, Any], call: dict[str, Any], pair: transformers.EncoderDecoderModel, tmp_path: Path
) -> None:
    rows = texts(6)  # batches of one size: the reference's loss is the mean of theirs
    args = seq2seq(tmp_path, predict_with_generate=True, **options)
    ours = Seq2SeqTrainer(model=pair, args=args).predict(rows, **call)
    theirs = transformers.Seq2SeqTrainer(
        model=copy.deepcopy(pair),  # it changes the configuration
        args=transformers.Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            predict_with_generate=True,
            per_device_eval_batch_size=3,
            use_cpu=True,
            report_to="none",
            **options,
        ),
    ).predict(rows, **call)
    width = min(ours.predictions.shape[1], theirs.predictions.shape[1])
    assert ours.predictions[:, :width].tolist() == theirs.predictions[:, :width].tolist()
    for rest in (ours.predictions[:, width:], theirs.predictions[:, width:]):
        assert set(rest.flatten().tolist()) <= {0, -100}, "padding alone"
    assert ours.metrics["test_loss"] == pytest.approx(theirs.metrics["test_loss"], rel=1e-5)
    assert ours.label_ids[:, :6].tolist() == [row["labels"].tolist() for row in rows]


def test_without_generation_it_is_a_trainer(pair: transformers.EncoderDecoderModel, tmp_path: Path) -> None:
    ours = Seq2SeqTrainer(model=pair, args=seq2seq(tmp_path)).predict(texts())
    plain = Trainer(model=pair, args=arguments(tmp_path, per_device_eval_batch_size=3)).predict(texts())
    assert ours.predictions[0].tolist() == plain.predictions[0].tolist()
    assert ours.predictions[0].shape == (5, 6, VOCABULARY)


def test_a_training_evaluates_by_generating(pair: transformers.EncoderDecoderModel, tmp_path: Path) -> None:
    seen: list[Any] = []

    def keep(prediction: Any) -> dict[str, float]:
        seen.append(prediction.predictions)
        return {"rows": len(prediction.predictions)}

    trainer = Seq2SeqTrainer(
        model=copy.deepcopy(pair),
        args=seq2seq(
            tmp_path,
            predict_with_generate=True,
            generation_max_length=5,
            eval_strategy="steps",
            eval_steps=1,
            max_steps=2,
            learning_rate=1e-3,
            save_strategy="no",
        ),
        train_dataset=texts(),
        eval_dataset=texts(3),
        compute_metrics=keep,
    )
    trainer.train()
    assert len(seen) == 2
    assert all(predictions.shape == (3, 6) for predictions in seen), "as wide as the labels"
    assert trainer.evaluate(max_length=12)["eval_rows"] == 3
    assert seen[-1].shape == (3, 12)
    assert trainer.evaluate()["eval_rows"] == 3
    assert seen[-1].shape == (3, 6), "what one call says is no matter of the next"


def test_decoder_inputs_made_of_the_labels_are_not_shown(
    pair: transformers.EncoderDecoderModel, tmp_path: Path
) -> None:
    seen: list[set[str]] = []

    class Watched(nn.Module):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.inside, self.config = pair, pair.config

        def forward(self, input_ids: Any, labels: Any = None, decoder_input_ids: Any = None) -> Any:
            return (self.inside.encoder(input_ids=input_ids).last_hidden_state.mean(),)

        def generate(self, **given: Any) -> Any:
            seen.append(set(given))
            return torch.zeros(len(given["input_ids"]), 4, dtype=torch.long)

    trainer = Seq2SeqTrainer(model=Watched().eval(), args=seq2seq(tmp_path, predict_with_generate=True))
    trainer.predict([{**row, "decoder_input_ids": row["labels"]} for row in texts(1)])
    trainer.predict([{**row, "decoder_input_ids": row["labels"][:2]} for row in texts(1)])
    assert seen == [{"input_ids"}, {"input_ids", "decoder_input_ids"}]


def test_a_generation_configuration_is_read(pair: transformers.EncoderDecoderModel, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 3, "eos_token_id": 31}))
    args = seq2seq(tmp_path, predict_with_generate=True, generation_config=str(tmp_path))
    found = Seq2SeqTrainer(model=pair, args=args).predict(texts()).predictions
    expected = pair.generate(
        torch.stack([row["input_ids"] for row in texts()]), max_new_tokens=3, eos_token_id=31
    )
    assert found[:, : expected.shape[1]].tolist() == expected.tolist()


def test_our_own_model_goes_on_greedily(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    args = seq2seq(tmp_path, predict_with_generate=True, generation_max_length=12)
    rows = tokens(4)
    trainer = Seq2SeqTrainer(model=model, args=args, processing_class=SimpleNamespace(pad_token_id=0))
    output = trainer.predict(rows)
    assert output.predictions.shape == (4, 12)
    for row, generated in zip(rows, output.predictions, strict=True):
        ids = row["input_ids"][None]
        for _ in range(4):
            with torch.no_grad():
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        assert generated.tolist() == ids[0].tolist()
    plain = Trainer(model=model, args=arguments(tmp_path, per_device_eval_batch_size=3)).predict(rows)
    assert output.metrics["test_loss"] == pytest.approx(plain.metrics["test_loss"], rel=1e-6)
    with pytest.raises(
        ConfigError, match=r"^predict_with_generate: 'length_penalty' is no option of this generation"
    ):
        trainer.predict(rows, length_penalty=1.0)
    with pytest.raises(ConfigError, match=r"^generation_num_beams: 2 beams need a search that is not built"):
        trainer.predict(rows, num_beams=2)


WRONG = {
    "another trainer": (
        Trainer,
        {"predict_with_generate": True},
        "predict_with_generate: it is the Seq2SeqTrainer that generates; use that, or leave it out.",
    ),
    "no generation": (
        Seq2SeqTrainer,
        {"generation_max_length": 5},
        "generation_max_length: 5 has no effect without predict_with_generate; leave it out.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_options_of_a_generation_need_one(case: str, tmp_path: Path) -> None:
    kind, given, sentence = WRONG[case]
    with pytest.raises(ConfigError) as raised:
        kind(model=Classifier(), args=seq2seq(tmp_path, **given))
    assert raised.value.problems == (sentence,)


def test_a_model_that_cannot_generate_or_pad_says_so(tmp_path: Path) -> None:
    trainer = Seq2SeqTrainer(model=Classifier(), args=seq2seq(tmp_path, predict_with_generate=True))
    with pytest.raises(
        ConfigError, match=r"^predict_with_generate: Classifier has no generate\(\); leave it out"
    ):
        trainer.predict(points(2))
    model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    trainer = Seq2SeqTrainer(model=model, args=seq2seq(tmp_path, predict_with_generate=True))
    with pytest.raises(
        ConfigError, match=r"^predict_with_generate: neither the processing_class nor the model's"
    ):
        trainer.predict(tokens(2))
