"""The tokenizer classes of the families: folders of every form, arguments, attributes, errors."""

from __future__ import annotations

import inspect
import json

import pytest
import transformers
from tokenizers import AddedToken

from conf.errors import CheckpointError, ConfigError
from processors import Tokenizer
from processors.folders import has_tokenizer
from processors.tokenizers import (
    AlbertTokenizer,
    AlbertTokenizerFast,
    BertTokenizer,
    BertTokenizerFast,
    BertTokenizerLegacy,
    LlamaTokenizer,
    LlamaTokenizerFast,
    PreTrainedTokenizerFast,
    TokenizersBackend,
    XLMRobertaTokenizer,
    XLMRobertaTokenizerFast,
)
from tests.processors.test_kinds import TEXTS, agree, trained


def write(folder, config: dict | None = None, **files: object):
    """A folder with a tokenizer_config.json and these files, lists being lines."""
    folder.mkdir(exist_ok=True)
    contents = dict(files) if config is None else {"tokenizer_config.json": config, **files}
    for name, content in contents.items():
        path = folder / name.replace("_txt", ".txt").replace("_json", ".json")
        path.write_text(
            "".join(f"{x}\n" for x in content) if isinstance(content, list) else json.dumps(content)
        )
    return folder


def lines_of(tokenizer: Tokenizer) -> list[str]:
    return [piece for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]


def test_the_documented_names_and_defaults():
    assert BertTokenizerFast is BertTokenizer
    assert AlbertTokenizerFast is AlbertTokenizer
    assert LlamaTokenizerFast is LlamaTokenizer
    assert XLMRobertaTokenizerFast is XLMRobertaTokenizer
    assert PreTrainedTokenizerFast is TokenizersBackend is Tokenizer
    documented = {"BertTokenizer": {"do_lower_case": False}}  # on in the installed version
    for ours in (BertTokenizer, AlbertTokenizer, LlamaTokenizer, XLMRobertaTokenizer):
        theirs = inspect.signature(getattr(transformers, ours.__name__).__init__).parameters
        found = {n: p.default for n, p in inspect.signature(ours.__init__).parameters.items() if p.kind != 4}
        wanted = {n: p.default for n, p in theirs.items() if p.kind != 4 and not n.startswith("_spm")}
        assert found == wanted | documented.get(ours.__name__, {})
        assert ours().special_tokens_map == getattr(transformers, ours.__name__)().special_tokens_map
        assert ours().get_vocab() == getattr(transformers, ours.__name__)().get_vocab()


@pytest.mark.parametrize("told", [None, False, True])
def test_a_vocab_txt(told, tmp_path):
    tokens = [*lines_of(trained("wordpiece")), "[NEW]"]
    tokens.remove("[MASK]")
    mask = {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    mask["__type"] = "AddedToken"
    config = {"tokenizer_class": "BertTokenizer", "mask_token": mask, "model_max_length": 512}
    config |= {} if told is None else {"do_lower_case": told}
    folder = write(tmp_path / "old", config, vocab_txt=tokens)
    oracle = transformers.BertTokenizer.from_pretrained(folder)
    texts = [*TEXTS, "a   [MASK] b[SEP]"]
    ours = BertTokenizer.from_pretrained(folder)
    agree(ours, oracle, texts)
    agree(Tokenizer.load(folder), oracle, texts[-3:])
    assert ours.do_lower_case is (told is not False)
    assert ours.mask_token_id == oracle.mask_token_id == len(tokens)
    assert ours.model_max_length == 512
    assert list(ours("a", "b")) == ["input_ids", "token_type_ids", "attention_mask"]
    ours.save(tmp_path / "new")
    again = BertTokenizer.from_pretrained(tmp_path / "new")
    assert again.files() == ours.files()
    agree(again, transformers.AutoTokenizer.from_pretrained(tmp_path / "new"), texts[-20:])
    # A setting given on loading holds for a tokenizer.json too.
    other = BertTokenizer.from_pretrained(tmp_path / "new", do_lower_case=told is False)
    agree(other, transformers.BertTokenizer.from_pretrained(folder, do_lower_case=told is False), texts[-40:])


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "RobertaTokenizer", None])
def test_a_vocab_json_with_merges(name, tmp_path):
    base = trained("bpe")
    model = json.loads(base.backend.to_str())["model"]
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    config = {"tokenizer_class": name, "add_prefix_space": True} if name else None
    folder = write(tmp_path / "old", config, vocab_json=model["vocab"], merges_txt=merges)
    oracle = getattr(transformers, name or "GPT2Tokenizer").from_pretrained(folder)
    agree(Tokenizer.load(folder), oracle)
    Tokenizer.load(folder).save(tmp_path / "new")
    assert Tokenizer.load(tmp_path / "new").files() == Tokenizer.load(folder).files()


def test_llamas_vocab_json_has_no_bytes_of_its_own_alphabet(tmp_path):
    model = json.loads(trained("bpe_byte_fallback").backend.to_str())["model"]
    merges = [" ".join(pair) for pair in model["merges"]]
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    folder = write(tmp_path / "old", config, vocab_json=model["vocab"], merges_txt=merges)
    pairs = [tuple(pair) for pair in model["merges"]]
    oracle = transformers.LlamaTokenizer(model["vocab"], pairs, add_bos_token=True)
    ours = LlamaTokenizer.from_pretrained(folder)
    agree(ours, oracle)
    agree(LlamaTokenizer(folder / "vocab.json", folder / "merges.txt", add_bos_token=True), oracle, TEXTS[:9])
    assert ours.padding_side == Tokenizer.load(folder).padding_side == "left"


def test_llama_puts_other_tokens_around_texts():
    model = json.loads(trained("bpe_byte_fallback").backend.to_str())["model"]
    pairs = [tuple(pair) for pair in model["merges"]]
    ours, theirs = LlamaTokenizer(model["vocab"], pairs), transformers.LlamaTokenizer(model["vocab"], pairs)
    for tokenizer in (ours, theirs):
        tokenizer.add_bos_token = True
        tokenizer.add_eos_token = True
        tokenizer.add_special_tokens({"bos_token": "<start>", "eos_token": "<end>"})
    agree(ours, theirs, TEXTS[:5])  # still the old ones
    assert ours.encode("")[0] == ours.token_to_id("<s>")
    for tokenizer in (ours, theirs):
        tokenizer.update_post_processor()
    agree(ours, theirs, TEXTS[:20])
    assert ours.encode("") == [ours.bos_token_id, ours.eos_token_id]
    assert ours.leading_ids == (ours.bos_token_id,)
    ours.bos_token = "<nowhere>"
    with pytest.raises(ValueError, match=r"'<nowhere>' is not in the vocabulary"):
        ours.update_post_processor()


def test_what_a_folder_says_of_the_beginning_is_known_after_loading(tmp_path):
    model = json.loads(trained("bpe_byte_fallback").backend.to_str())["model"]
    for adds in ((True, False), (False, True), (True, True), (False, False)):
        made = LlamaTokenizer(model["vocab"], add_bos_token=adds[0], add_eos_token=adds[1])
        made.save(tmp_path)
        again = LlamaTokenizer.from_pretrained(tmp_path)
        assert (again.add_bos_token, again.add_eos_token) == adds == (made.add_bos_token, made.add_eos_token)


def test_arguments_of_every_tokenizer_and_tokens_with_flags():
    ours = BertTokenizer(
        trained("wordpiece").get_vocab(),
        mask_token=AddedToken("[MASK]", lstrip=True),
        model_max_length=9,
        chat_template="T",
        padding_side="left",
        extra_special_tokens=["[X]"],
    )
    theirs = transformers.BertTokenizer(
        trained("wordpiece").get_vocab(),
        do_lower_case=False,
        mask_token=AddedToken("[MASK]", lstrip=True),
        extra_special_tokens=["[X]"],
    )
    agree(ours, theirs, ["a  [MASK] b", "c[X]d"])
    assert (ours.model_max_length, ours.padding_side, ours.chat_templates) == (9, "left", {"default": "T"})
    assert ours.extra_special_tokens == ["[X]"]
    vocabulary, parts = (
        trained("bpe_byte_fallback").get_vocab(),
        {"pad_token": "<0x00>", "image_token": "<i>"},
    )
    ours, theirs = (of(vocabulary, **parts) for of in (LlamaTokenizer, transformers.LlamaTokenizer))
    for tokenizer in (ours, theirs):
        tokenizer.pad([{"input_ids": [5]}, {"input_ids": [5, 6]}])
    for name in ("pad_token", "pad_token_id", "image_token", "image_token_id", "model_input_names"):
        assert getattr(ours, name) == getattr(theirs, name), name
    with pytest.raises(TypeError, match="lower_case"):
        BertTokenizer(lower_case=True)
    with pytest.raises(TypeError, match="no argument add_bos_token"):
        BertTokenizer(add_bos_token=True)
    with pytest.raises(ConfigError, match="there is no keep_accents"):
        BertTokenizer.from_pretrained("nowhere", keep_accents=True)


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        (
            None,
            {},
            r"no tokenizer\.json, and no vocabulary either \(vocab\.txt, vocab\.json with merges\.txt",
        ),
        ({}, {"vocab_json": {"a": 0}}, r"no tokenizer\.json, and no vocabulary either"),
        (
            {"tokenizer_class": "CLIPTokenizerFast"},
            {"vocab_json": {"a": 0}, "merges_txt": []},
            r"CLIPTokenizer is not a tokenizer that can be built around vocab\.json; known are Bert",
        ),
        ({}, {"vocab_json": ["a"], "merges_txt": []}, r"vocab\.json is not valid JSON"),
        ({}, {"vocab_txt": ["a"], "config_json": 3}, r"config\.json holds a int where a mapping is expected"),
        (
            {},
            {"vocab_json": {"a": "b"}, "merges_txt": []},
            r"vocab\.json: pieces with their ids are expected",
        ),
        ({}, {"vocab_json": {"a": 0}, "merges_txt": ["a b", "a"]}, r"merges\.txt, line 2: two pieces"),
        ({}, {"vocab_json": {"a": 0}, "merges_txt": ["a b"]}, r"the vocabulary cannot be used: .*`b` out of"),
        (
            {"tokenizer_class": "AlbertTokenizer"},
            {"vocab_txt": ["a"]},
            r"a Unigram tokenizer is named, but the vocabulary is vocab\.txt",
        ),
        (
            {"tokenizer_class": "BertTokenizer"},
            {"vocab_json": {"a": 0}, "merges_txt": []},
            r"a WordPiece tokenizer is named, but the vocabulary is vocab\.json",
        ),
    ],
)
def test_a_folder_that_cannot_be_loaded(config, files, said, tmp_path):
    write(tmp_path, config, **files)
    with pytest.raises(CheckpointError, match=said):
        Tokenizer.load(tmp_path)
    assert has_tokenizer(tmp_path) == ("no vocabulary either" not in said)


def test_a_tokenizer_json_of_another_kind(tmp_path):
    trained("bpe").save(tmp_path)
    for family in (BertTokenizer, AlbertTokenizer, LlamaTokenizer, BertTokenizerLegacy):
        with pytest.raises(
            CheckpointError, match=r"not of the kind that .* AutoTokenizer would take it as it is"
        ):
            family.from_pretrained(tmp_path)
