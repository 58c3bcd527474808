"""The ALBERT family; names load on first use, so that importing this package loads no torch."""

from __future__ import annotations

from conf.plugins import lazy

_PUBLIC = {
    "AlbertConfig": "models.albert.config",
    "AlbertForMaskedLM": "models.albert.tasks",
    "AlbertForMultipleChoice": "models.albert.tasks",
    "AlbertForPreTraining": "models.albert.tasks",
    "AlbertForQuestionAnswering": "models.albert.tasks",
    "AlbertForSequenceClassification": "models.albert.tasks",
    "AlbertForTokenClassification": "models.albert.tasks",
    "AlbertModel": "models.albert.tasks",
}
__getattr__ = lazy(__name__, _PUBLIC)
