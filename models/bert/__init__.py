"""The BERT family; names load on first use, so that importing this package loads no torch."""

from __future__ import annotations

from conf.plugins import lazy

_PUBLIC = {
    "BertConfig": "models.bert.config",
    "BertForMaskedLM": "models.bert.tasks",
    "BertForMultipleChoice": "models.bert.tasks",
    "BertForNextSentencePrediction": "models.bert.tasks",
    "BertForPreTraining": "models.bert.tasks",
    "BertForQuestionAnswering": "models.bert.tasks",
    "BertForSequenceClassification": "models.bert.tasks",
    "BertForTokenClassification": "models.bert.tasks",
    "BertLMHeadModel": "models.bert.tasks",
    "BertModel": "models.bert.tasks",
}
__getattr__ = lazy(__name__, _PUBLIC)
