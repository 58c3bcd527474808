"""Tokenizers: training, the folder's files in both directions, and what is said when a folder is wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from conf.errors import CheckpointError, ConfigError
from processors import Tokenizer, TrainOptions, train_bpe
from processors.rendering import stop_ids
from tests.processors.trained import ours_and_theirs

NAMES = ["chatml", "llama3", "llama2", "mistral", "zephyr", "instruction", None]


@pytest.mark.parametrize("name", NAMES)
def test_ids_agree_with_the_oracle_and_come_back(name, tokenizer_for, oracle_for, make_text):
    ours, oracle = tokenizer_for(name), oracle_for(name)
    assert len(ours) == len(oracle) == 1024
    for part in ("bos", "eos", "pad", "unk"):
        assert getattr(ours, f"{part}_token") == getattr(oracle, f"{part}_token")
        assert getattr(ours, f"{part}_token_id") == getattr(oracle, f"{part}_token_id")
    rng = random.Random(0)
    texts = [make_text(rng) + (ours.eos_token if i % 5 == 0 else "") for i in range(200)]
    for special in (True, False):
        expected = oracle(texts, add_special_tokens=special)["input_ids"]
        assert ours.encode_batch(texts, add_special_tokens=special) == expected
        assert [ours.encode(text, add_special_tokens=special) for text in texts] == expected
    for text in texts:
        ids = ours.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == text == oracle.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == oracle.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_goes_there_and_back(name, tokenizer_for, oracle_for, tmp_path, make_text):
    ours = tokenizer_for(name)
    oracle_for(name).save_pretrained(tmp_path)
    again = Tokenizer.load(tmp_path)
    texts = [make_text(random.Random(seed)) + str(ours.eos_token) for seed in range(50)]
    assert again.encode_batch(texts) == ours.encode_batch(texts)
    assert again.special_tokens == ours.special_tokens
    assert again.special_ids == ours.special_ids
    assert again.chat_templates == ours.chat_templates
    assert len(again) == len(ours)


def test_saving_is_deterministic_and_loading_keeps_everything(tokenizer_for, tmp_path):
    ours = tokenizer_for("chatml")
    ours.save(tmp_path / "one")
    again = Tokenizer.load(tmp_path / "one")
    assert again.files() == ours.files()
    assert again.fingerprint() == ours.fingerprint()
    written = {}

    def opener(name):
        path = tmp_path / "two" / name
        path.parent.mkdir(exist_ok=True)
        written[name] = path
        return path.open("wb")

    again.save(opener)
    for name, path in written.items():
        assert path.read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert set(written) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    }


def test_fingerprint_sees_vocabulary_parts_and_template(tokenizer_for):
    base = tokenizer_for("chatml")
    prints = {base.fingerprint(), tokenizer_for("zephyr").fingerprint(), tokenizer_for(None).fingerprint()}
    other = Tokenizer(
        base.backend, special_tokens=base.special_tokens, chat_templates={"default": "{{ messages }}"}
    )
    fewer = Tokenizer(
        base.backend, special_tokens={"eos_token": "<|im_end|>"}, chat_templates=base.chat_templates
    )
    assert len(prints | {other.fingerprint(), fewer.fingerprint()}) == 5


def test_training_is_deterministic_across_processes():
    code = (
        "from processors import train_bpe, TrainOptions\n"
        "texts = [f'word{i % 37} other{i % 11} the cat {i}' for i in range(500)]\n"
        "print(train_bpe(texts, TrainOptions(vocab_size=400), 'chatml').fingerprint())"
    )
    root = Path(__file__).parents[2]
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": str(root), "PYTHONHASHSEED": seed, "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def test_the_end_of_a_turn_stops_generation(tokenizer_for):
    chatml = tokenizer_for("chatml")
    assert stop_ids(chatml) == [chatml.token_to_id("<|im_end|>")] == [chatml.eos_token_id]
    # A model whose EOS token is the end of a text stops at the end of a turn as well.
    llama3 = tokenizer_for("llama3")
    base = Tokenizer(
        llama3.backend,
        special_tokens={"bos_token": "<|begin_of_text|>", "eos_token": "<|finetune_right_pad_id|>"},
        chat_templates=llama3.chat_templates,
    )
    assert stop_ids(base) == [base.eos_token_id, base.token_to_id("<|eot_id|>")]
    assert stop_ids(tokenizer_for(None)) == [tokenizer_for(None).eos_token_id]


def test_a_vocabulary_too_small_for_the_bytes():
    with pytest.raises(ConfigError, match=r"vocab_size: 100 is too small; the 256 bytes and 3 special"):
        train_bpe(["a"], TrainOptions(vocab_size=100), "chatml")


def test_an_unknown_template_names_the_nearest(tokenizer_for):
    with pytest.raises(ConfigError, match=r"there is no 'chatlm'; did you mean 'chatml'\?"):
        train_bpe(["a"], TrainOptions(), "chatlm")
    with pytest.raises(ConfigError, match=r"'llama3' needs .*<\|eot_id\|>.*which the tokenizer lacks"):
        tokenizer_for("chatml").with_chat_template("llama3")
    with pytest.raises(ConfigError, match=r"there is no file 'nowhere.jinja'"):
        tokenizer_for("chatml").with_chat_template("nowhere.jinja")


def test_a_template_from_a_file(tokenizer_for, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages[0]['content'] }}")
    changed = tokenizer_for(None).with_chat_template(str(tmp_path / "mine.jinja"))
    assert changed.chat_templates == {"default": "{{ messages[0]['content'] }}"}


def test_a_folder_without_tokenizer_json(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no tokenizer.json, and no vocabulary either"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_named(name, tokenizer_for, tmp_path):
    tokenizer_for("chatml").save(tmp_path)
    (tmp_path / name).write_text('{"a": ')
    with pytest.raises(CheckpointError, match=name):
        Tokenizer.load(tmp_path)


def _old_folder(tokenizer: Tokenizer, folder: Path, config: dict, **files: object) -> None:
    """A folder as older versions of the reference library wrote them."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes(tokenizer.files()["tokenizer.json"])
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config)
    )
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_old_spellings_of_a_folder(tokenizer_for, tmp_path):
    import transformers

    base = tokenizer_for(None)
    templates = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    eos = {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "rstrip": False}
    config = {
        "eos_token": eos,
        "model_max_length": int(1e30),
        "chat_template": templates,
        "additional_special_tokens": ["<|one|>"],
        "custom": {"kept": 1},
    }
    _old_folder(
        base,
        tmp_path,
        config,
        special_tokens_map={"mask_token": {"content": "<mask>"}, "pad_token": "<|pad|>"},
        added_tokens={"<|late|>": 1024},
    )
    ours = Tokenizer.load(tmp_path)
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "a<|one|>b<mask>c<|late|>d<|endoftext|>"
    assert ours.encode(text) == oracle(text)["input_ids"]
    assert len(ours) == len(oracle) == 1027
    assert ours.eos_token == "<|endoftext|>"
    assert ours.mask_token_id == oracle.mask_token_id
    assert ours.model_max_length == oracle.model_max_length == int(1e30)
    assert ours.chat_templates == {"default": "D", "tool_use": "T"} == oracle.chat_template
    assert json.loads(ours.files()["tokenizer_config.json"])["custom"] == {"kept": 1}
    ours.save(tmp_path / "new")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert again(text)["input_ids"] == ours.encode(text)
    assert again.chat_template == oracle.chat_template
    assert Tokenizer.load(tmp_path / "new").files() == ours.files()


def test_template_files_win_over_the_config(tokenizer_for, tmp_path):
    _old_folder(tokenizer_for(None), tmp_path, {"chat_template": "old"})
    assert Tokenizer.load(tmp_path).chat_templates == {"default": "old"}
    (tmp_path / "chat_template.jinja").write_text("new")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    assert Tokenizer.load(tmp_path).chat_templates == {"default": "new", "rag": "rag"}


def test_files_of_different_tokenizers_are_noticed(tokenizer_for, tmp_path):
    _old_folder(tokenizer_for(None), tmp_path, {"added_tokens_decoder": {"7": {"content": "<|new|>"}}})
    with pytest.raises(
        CheckpointError, match=r"gives the token '<\|new\|>' the id 1024, the configuration 7"
    ):
        Tokenizer.load(tmp_path)


def test_saved_limits_on_length_do_not_drop_text(tokenizer_for, tmp_path):
    backend = tokenizers.Tokenizer.from_str(tokenizer_for(None).backend.to_str())
    backend.enable_truncation(3)
    backend.enable_padding(length=80)
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "much longer than three tokens, and no padding either"
    assert Tokenizer.load(tmp_path).encode(text) == tokenizer_for(None).encode(text)


def test_model_max_length_is_saved(tokenizer_for, tmp_path):
    Tokenizer(tokenizer_for(None).backend, special_tokens={}, model_max_length=77).save(tmp_path)
    assert Tokenizer.load(tmp_path).model_max_length == 77


def test_text_encoded_literally_holds_no_special_token(tokenizer_for):
    tokenizer = tokenizer_for("llama3")
    text = "a<|eot_id|>b<|begin_of_text|>"
    (ids,) = tokenizer.encode_literally([text])
    assert ids[0] == tokenizer.bos_token_id
    assert not tokenizer.special_ids & set(ids[1:])
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer.eos_token_id in tokenizer.encode(text)  # and the setting does not stay


def test_importing_the_catalog_loads_nothing_heavy():
    code = (
        "import sys, processors; processors.ChatFormat, processors.TrainOptions, processors.FORMATS\n"
        "print([m for m in ('torch', 'numpy', 'jinja2', 'tokenizers', 'transformers') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# -- special tokens ----------------------------------------------------------------------------------


def _state(tokenizer) -> dict:
    roles = [f"{part}_token" for part in ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image")]
    named = {name: getattr(tokenizer, name, "absent") for role in roles for name in (role, f"{role}_id")}
    return named | {
        "map": tokenizer.special_tokens_map,
        "extra": tokenizer.extra_special_tokens,
        "extra ids": tokenizer.extra_special_tokens_ids,
        "all": tokenizer.all_special_tokens,
        "all ids": tokenizer.all_special_ids,
        "added": tokenizer.added_tokens_encoder,
        "flags": {i: repr(token) for i, token in tokenizer.added_tokens_decoder.items()},
        "sizes": (len(tokenizer), tokenizer.vocab_size, len(tokenizer.get_vocab())),
        "same": tokenizer.get_added_vocab() == tokenizer.added_tokens_encoder,
        "vocab": tokenizer.vocab,
    }


def test_special_tokens_are_added_and_named_as_in_the_reference():
    ours, theirs = ours_and_theirs("wordpiece", extra_special_tokens=["<one>", "<two>"])
    assert ours.special_texts >= {"<one>", "<two>", "[CLS]"}
    lstrip = tokenizers.AddedToken("<left>", lstrip=True, special=True, normalized=False)
    steps = [
        lambda t: t.add_special_tokens({"bos_token": "<s>", "eos_token": lstrip}),
        lambda t: t.add_special_tokens({"extra_special_tokens": ["<three>", "<one>"]}),
        lambda t: t.add_special_tokens({"extra_special_tokens": ["<four>", "<one>"]}, False),
        lambda t: t.add_special_tokens({"additional_special_tokens": ["<five>"]}),
        lambda t: t.add_special_tokens({"extra_special_tokens": ["<in>"], "mask_token": "<order>"}),
        lambda t: t.add_special_tokens({}),
        lambda t: t.add_tokens("plain"),
        lambda t: t.add_tokens(["<six>", tokenizers.AddedToken("seven", single_word=True)]),
        lambda t: t.add_tokens(["<eight>"], special_tokens=True),
        lambda t: t.add_tokens([]),
        lambda t: setattr(t, "pad_token", "[MASK]"),
        lambda t: setattr(t, "unk_token_id", 5),
        lambda t: setattr(t, "sep_token", None),
        lambda t: setattr(t, "extra_special_tokens", ["<six>"]),
        lambda t: setattr(t, "extra_special_tokens", None),
        lambda t: setattr(t, "cls_token_id", None),
    ]
    text = "a <left>b<one> <four>plain seven <six> sevens<eight>[MASK]"
    for place, step in enumerate(steps):
        assert step(ours) == step(theirs), place
        assert _state(ours) == _state(theirs), place
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        ids = theirs(text)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    for step in (
        lambda t: t.add_special_tokens({"other": "x"}),
        lambda t: t.add_special_tokens({"pad_token": 3}),
        lambda t: t.add_special_tokens({"extra_special_tokens": "text"}),
        lambda t: setattr(t, "pad_token", 3),
        lambda t: setattr(t, "extra_special_tokens", "text"),
        lambda t: t.get_special_tokens_mask([1], [2], already_has_special_tokens=True),
    ):
        for tokenizer in (ours, theirs):
            with pytest.raises(ValueError):  # noqa: PT011
                step(tokenizer)
    with pytest.raises(ValueError, match="no token with the id 99999"):
        ours.pad_token_id = 99999
    with pytest.raises(AttributeError, match="no attribute 'video_token'"):
        _ = ours.video_token


def test_named_extra_tokens_are_attributes_also_after_saving(tmp_path):
    import transformers

    names = {"image_token": "<image>", "boi": "<boi>"}
    ours, theirs = ours_and_theirs("bpe", extra_special_tokens=names)
    ours.extra_special_tokens = theirs.extra_special_tokens = ["<more>"]
    assert ours.add_tokens(["<more>"], special_tokens=True) == theirs.add_tokens(["<more>"], True) == 1
    assert ours.image_token == theirs.image_token == "<image>"
    assert ours.image_token_id == theirs.image_token_id == 400
    assert ours.boi_id == theirs.boi_id == 401
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in ("theirs", "ours"):
        again = Tokenizer.load(tmp_path / folder)
        oracle = transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        states = [_state(tokenizer) for tokenizer in (again, oracle, ours)]
        for state in states:  # names are saved in alphabetical order
            state["all"].sort()
            state["all ids"].sort()
        assert states[0] == states[1]
        # the reference saves names that do not end with "_token", but does not find them again
        assert (states[0] == states[2]) == (folder == "ours") == hasattr(oracle, "boi_id")
    assert again.files() == ours.files()
    assert (again.boi, again.boi_id) == (oracle.boi, oracle.boi_id) == ("<boi>", 401)
    again.image_token = "<boi>"
    again.boi_id = 400
    assert (again.image_token_id, again.boi) == (401, "<image>")
    assert "boi" in again.apply_chat_template([{}], chat_template="{{ image_token }}", tokenize=False)


def test_settings_of_a_folder_and_changes_to_them(tmp_path):
    import transformers

    settings = {
        "padding_side": "left",
        "truncation_side": "left",
        "model_input_names": ["input_ids"],
        "clean_up_tokenization_spaces": True,
        "split_special_tokens": True,
    }
    ours, _ = ours_and_theirs("wordpiece")
    assert b"padding_side" not in ours.files()["tokenizer_config.json"]
    for name, value in settings.items():
        setattr(ours, name, value)
    written = ours.save_pretrained(tmp_path)
    assert sorted(written) == sorted(str(path) for path in tmp_path.iterdir())
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    ends = {"bos_token": "[CLS]", "eos_token": "[SEP]", "add_bos_token": True, "add_eos_token": False}
    of_both = (of.from_pretrained(tmp_path, **ends) for of in (Tokenizer, transformers.AutoTokenizer))
    begun, theirs = ([*of("a b", "c")["input_ids"]] for of in of_both)
    assert begun == theirs != again("a b", "c")["input_ids"]
    with pytest.raises(ValueError, match="add_bos_token: the tokenizer has no bos_token"):
        Tokenizer.from_pretrained(tmp_path, add_bos_token=True)
    assert again.name_or_path == str(tmp_path)
    for name, value in settings.items():
        assert getattr(again, name) == value == getattr(oracle, name)
    texts = ["a [SEP] b .", "c"]
    assert dict(again(texts, padding=True)) == dict(oracle(texts, padding=True))
    changes = {"padding_side": "right", "pad_token": "[MASK]", "model_max_length": 5}
    more = {"chat_template": "T", "extra_special_tokens": ["<e>"], "split_special_tokens": False}
    made = [
        kind.from_pretrained(tmp_path, **changes, **more) for kind in (Tokenizer, transformers.AutoTokenizer)
    ]
    assert _state(made[0]) == _state(made[1])
    assert dict(made[0](texts, padding=True)) == dict(made[1](texts, padding=True))
    for name in ("padding_side", "model_max_length", "chat_template"):
        assert getattr(made[0], name) == getattr(made[1], name)
    for part in ("vocab_size=", "padding_side='right'", "special_tokens={"):
        assert part in repr(made[0])
        assert part in repr(made[1])
    assert Tokenizer.from_pretrained(tmp_path, sep_token=None).sep_token is None
    with pytest.raises(ConfigError, match="there is no paddding_side; one of"):
        Tokenizer.from_pretrained(tmp_path, paddding_side="left")
    with pytest.raises(ValueError, match="padding_side: 'top' was given"):
        Tokenizer.from_pretrained(tmp_path, padding_side="top")
    paths = again.save_vocabulary(tmp_path / "old", "v")
    assert [Path(path).name for path in paths] == ["v-vocab.txt"]
    assert Path(paths[0]).read_text(encoding="utf-8").split("\n")[2] == "[CLS]"
    prefixed = again.save_pretrained(tmp_path / "prefixed", filename_prefix="v")
    assert {Path(path).name[:2] for path in prefixed} == {"v-"}


def test_a_changed_backend_and_copies_with_other_templates(tokenizer_for):
    base, _ = ours_and_theirs("bpe")
    (specials, leading), files = (base.special_ids, base.leading_ids), base.files()
    changed = base.with_chat_template("instruction")
    assert changed.chat_template != base.chat_template
    changed.pad_token = "</s>"
    assert base.pad_token == "<pad>"
    changed.add_special_tokens({"mask_token": "<mask>"})  # of the backend that both use
    assert base.special_ids == specials | {400}
    assert base.mask_token is None
    assert leading == ()
    base.backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    base.backend_changed()
    assert base.leading_ids == (0,)
    assert base.files() != files
