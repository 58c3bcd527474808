"""The XLM-RoBERTa family; names load on first use, so that importing this package loads no torch."""

from __future__ import annotations

from conf.plugins import lazy

_PUBLIC = {
    "XLMRobertaConfig": "models.xlm_roberta.config",
    "XLMRobertaForMaskedLM": "models.xlm_roberta.tasks",
    "XLMRobertaModel": "models.xlm_roberta.tasks",
}
__getattr__ = lazy(__name__, _PUBLIC)
