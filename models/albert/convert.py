"""What an ALBERT can be trained for, and how the names of its parameters in checkpoints differ from ours."""

from __future__ import annotations

from models.tasks import Task

WITHOUT_POOLER = {"add_pooling_layer": False}

WORDS = {"transform.": "predictions.", "decoder.": "predictions.decoder.", "bias": "predictions.bias"}

TASKS = {
    None: Task(architecture="AlbertModel"),
    "pretraining": Task(
        architecture="AlbertForPreTraining",
        head="sentence_order_pretraining",
        keys={
            **{f"predictions.{ours}": theirs for ours, theirs in WORDS.items()},
            "relation.": "sop_classifier.classifier.",
        },
    ),
    "masked_lm": Task(
        architecture="AlbertForMaskedLM", head="masked_lm", keys=WORDS, backbone=WITHOUT_POOLER
    ),
    "sequence_classification": Task(
        architecture="AlbertForSequenceClassification",
        head="pooled_classification",
        keys={"classifier.": "classifier."},
    ),
    "multiple_choice": Task(
        architecture="AlbertForMultipleChoice", head="multiple_choice", keys={"classifier.": "classifier."}
    ),
    "token_classification": Task(
        architecture="AlbertForTokenClassification",
        head="token_classification",
        keys={"classifier.": "classifier."},
        backbone=WITHOUT_POOLER,
    ),
    "question_answering": Task(
        architecture="AlbertForQuestionAnswering",
        head="question_answering",
        keys={"classifier.": "qa_outputs."},
        backbone=WITHOUT_POOLER,
    ),
}

PREFIX = "albert."  # of the backbone's parameters, under a head

# (our name or prefix, the checkpoint's): nothing beyond the prefix and the heads.
RENAMES: tuple[tuple[str, str], ...] = ()

# Keys that hold no weight, if a model has no place for them: positions count from 0, and of the two biases of
# the words, which files may both have, a model has one.
IGNORED = (r"(albert\.)?embeddings\.position_ids", r"predictions\.(decoder\.)?bias")

# Of the backbone, what files of another task may lack, by our names: masked words are told without it.
DRAWN_IF_MISSING = ("backbone.pooler.",)
