"""What a BERT can be trained for, and how the names of its parameters in checkpoints differ from ours."""

from __future__ import annotations

from models.tasks import Task

WITHOUT_POOLER = {"add_pooling_layer": False}

MASKED_LM = {
    "transform.": "cls.predictions.transform.",
    "decoder.": "cls.predictions.decoder.",
    "bias": "cls.predictions.bias",
}

TASKS = {
    None: Task(architecture="BertModel"),
    "pretraining": Task(
        architecture="BertForPreTraining",
        head="next_sentence_pretraining",
        keys={"predictions.": "cls.predictions.", "relation.": "cls.seq_relationship."},
    ),
    "causal_lm": Task(
        architecture="BertLMHeadModel", head="transformed_causal_lm", keys=MASKED_LM, backbone=WITHOUT_POOLER
    ),
    "masked_lm": Task(
        architecture="BertForMaskedLM", head="masked_lm", keys=MASKED_LM, backbone=WITHOUT_POOLER
    ),
    "next_sentence": Task(
        architecture="BertForNextSentencePrediction",
        head="next_sentence",
        keys={"relation.": "cls.seq_relationship."},
    ),
    "sequence_classification": Task(
        architecture="BertForSequenceClassification",
        head="pooled_classification",
        keys={"classifier.": "classifier."},
    ),
    "multiple_choice": Task(
        architecture="BertForMultipleChoice", head="multiple_choice", keys={"classifier.": "classifier."}
    ),
    "token_classification": Task(
        architecture="BertForTokenClassification",
        head="token_classification",
        keys={"classifier.": "classifier."},
        backbone=WITHOUT_POOLER,
    ),
    "question_answering": Task(
        architecture="BertForQuestionAnswering",
        head="question_answering",
        keys={"classifier.": "qa_outputs."},
        backbone=WITHOUT_POOLER,
    ),
}

PREFIX = "bert."  # of the backbone's parameters, under a head

# (our name or prefix, the checkpoint's): nothing beyond the prefix and the heads.
RENAMES: tuple[tuple[str, str], ...] = ()

# Keys that hold no weight, if a model has no place for them: positions are counted, and of the two biases of
# the words, which files may both have, a model has one.
IGNORED = (r"(bert\.)?embeddings\.position_ids", r"cls\.predictions\.(decoder\.)?bias")

# The first files call a norm's scale and shift so.
OLD_ENDINGS = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))

# Of the backbone, what files of another task may lack, by our names: masked words are told without a pooler,
# and an encoder that becomes a decoder has never looked at another.
DRAWN_IF_MISSING = (r"backbone\.pooler\.", r"backbone\.encoder\.layer\.\d+\.crossattention\.")
