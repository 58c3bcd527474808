"""Names to checkpoint keys and back, exactly."""

from __future__ import annotations

import pytest

from models.weights.keymap import KeyMap

CAUSAL = KeyMap(
    renames=(("head.weight", "lm_head.weight"), ("backbone.", "model.")),
    legacy=(("", "backbone."),),
    ignored=(r".*\.rotary_emb\.inv_freq",),
)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("backbone.embed_tokens.weight", "model.embed_tokens.weight"),
        ("backbone.layers.10.mlp.up_proj.weight", "model.layers.10.mlp.up_proj.weight"),
        ("backbone.model.x", "model.model.x"),
        ("head.weight", "lm_head.weight"),
    ],
)
def test_round_trip(name: str, key: str) -> None:
    assert CAUSAL.to_checkpoint(name) == key
    assert CAUSAL.from_checkpoint(key) == name


def test_keys_of_a_bare_backbone_are_read() -> None:
    assert CAUSAL.from_checkpoint("layers.0.mlp.up_proj.weight") == "backbone.layers.0.mlp.up_proj.weight"
    assert CAUSAL.to_checkpoint("backbone.layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"


def test_without_legacy_spellings_a_strange_key_has_no_name() -> None:
    assert KeyMap(renames=(("backbone.", "model."),)).from_checkpoint("layers.0") is None


def test_the_longest_prefix_applies_whatever_the_order() -> None:
    pairs = (("a.", "x."), ("a.b.", "y."), ("a.b.c", "z"))
    for renames in (pairs, pairs[::-1]):
        keymap = KeyMap(renames=renames)
        for name, key in (("a.w", "x.w"), ("a.b.w", "y.w"), ("a.b.c", "z"), ("a.b.cd", "zd")):
            assert (keymap.to_checkpoint(name), keymap.from_checkpoint(key)) == (key, name)


def test_ignored_keys_match_whole() -> None:
    assert CAUSAL.ignores("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert not CAUSAL.ignores("model.layers.0.self_attn.rotary_emb.inv_freq.weight")
    assert not CAUSAL.ignores("model.norm.weight")


@pytest.mark.parametrize(
    ("renames", "legacy"),
    [
        ((("a.", "x."), ("b.", "x.")), ()),
        ((("a.", "x."), ("a.", "y.")), ()),
        ((("a.", "x."),), (("x.", "b."),)),
    ],
)
def test_tables_that_cannot_be_run_backwards_are_refused(renames, legacy) -> None:
    with pytest.raises(ValueError, match=r"ambiguous renames: the prefix '[ax]\.' stands for more than one"):
        KeyMap(renames=renames, legacy=legacy)


def test_a_name_whose_key_is_read_as_another_is_refused() -> None:
    keymap = KeyMap(renames=(("a.", "m."), ("b.", "m.x.")))
    assert keymap.to_checkpoint("a.w") == "m.w"
    with pytest.raises(ValueError, match=r"'a\.x\.w' is saved as 'm\.x\.w', which is read as 'b\.w'"):
        keymap.to_checkpoint("a.x.w")
    with pytest.raises(ValueError, match=r"no rename fits the parameter 'c\.w'"):
        keymap.to_checkpoint("c.w")
