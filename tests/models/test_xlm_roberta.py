"""What XLM-RoBERTa has beyond the shared suite: how its positions count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from conf.errors import ConfigError
from models.xlm_roberta import XLMRobertaConfig, XLMRobertaModel
from tests.models.families.family import padded
from tests.models.families.xlm_roberta import CASE
from tests.models.oracle import close, raises


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_packed_documents_count_anew_and_leave_padding_out(attn: str) -> None:
    model = CASE.ours(None, {"max_position_embeddings": 24}, attn=attn)
    lengths = (7, 1, 20, 19)
    ids = torch.randint(4, 96, (1, sum(lengths)), generator=torch.Generator().manual_seed(2))
    ids[0, [2, 7, 12, 46]] = 1  # padding tokens, which are seen but take no position
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    with torch.no_grad():
        packed = model(ids, cu_seqlens=borders)
        separate = [model(part) for part in ids.split(lengths, dim=1)]
        hidden = torch.cat([output.last_hidden_state for output in separate], dim=1)
        assert close(packed.last_hidden_state, hidden, 1e-6)
        oracle = CASE.theirs(None, model, attn="eager")
        expected = torch.cat([oracle(part)[0] for part in ids.split(lengths, dim=1)], dim=1)
        assert close(packed.last_hidden_state, expected)


def test_a_decoder_counts_on_behind_its_cache() -> None:
    model = CASE.ours(None, {"is_decoder": True})
    oracle = CASE.theirs(None, model)
    ids = padded("right")["input_ids"][:2, :13]
    with torch.no_grad():
        first = model(ids[:, :9], use_cache=True)
        found = model(ids[:, 9:], past_key_values=first.past_key_values, use_cache=True)
        embedded = model.get_input_embeddings()(ids)
        first = model(inputs_embeds=embedded[:, :9], use_cache=True)
        of_embeddings = model(inputs_embeds=embedded[:, 9:], past_key_values=first.past_key_values)
        expected = oracle(ids)[0][:, 9:]
    assert close(found.last_hidden_state, expected)
    assert close(of_embeddings.last_hidden_state, expected)


def test_positions_begin_behind_padding() -> None:
    model = CASE.ours(None, {"max_position_embeddings": 14})  # of which 12 are for tokens
    assert (
        not XLMRobertaModel(CASE.config(**CASE.small)).backbone.embeddings.position_embeddings.weight[1].any()
    )
    ids = torch.arange(4, 17)[None]
    ids[0, 3] = 1
    assert model(ids).last_hidden_state.isfinite().all()  # 12 tokens and a padding token
    ids[0, 3] = 5
    assert "a text reaches position 14, but max_position_embeddings is 14" in raises(lambda: model(ids))
    embedded = model.get_input_embeddings()(ids)
    assert "a text reaches position 14" in raises(lambda: model(inputs_embeds=embedded))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pad_token_id": None}, "pad_token_id: positions count from it, so there must be one"),
        ({"max_position_embeddings": 2}, "max_position_embeddings: positions begin at pad_token_id + 1 = 2"),
    ],
)
def test_impossible_configurations(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="XLMRobertaConfig") as caught:
        XLMRobertaConfig(**fields)
    assert message in str(caught.value)


def test_presets_have_the_published_sizes() -> None:
    for preset, parameters in (("xlm-roberta-base", 278043648), ("xlm-roberta-large", 559890432)):
        config = XLMRobertaConfig.preset(preset)
        assert XLMRobertaModel(config, device="meta").num_parameters() == parameters
        with torch.device("meta"):
            oracle = transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**config.to_dict()))
        assert oracle.num_parameters() == parameters
