"""From rows to the cache: with a format of the tests' own, and the shipped conversations with theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from collators import DataCollatorWithFlattening
from conf.errors import DataError
from trainer.data import tokenizing
from trainer.data.batches import Batches
from trainer.data.cache import TokenRows, write_once
from trainer.data.rows import RowSet, rows_without_target
from trainer.data.sources import Source, SourceOptions
from trainer.data.tokenizing import TokenizedSource, fill, tokenize_source

ROOT = Path(tokenizing.__file__).parents[2]


def source_of(path: Path, text: str, **options) -> Source:
    path.write_text(text)
    return Source(SourceOptions(path=str(path), format="text", **options))


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_rows_become_documents_with_their_places(tmp_path: Path, letters, monkeypatch, at_once: int):
    monkeypatch.setattr(tokenizing, "ROWS_AT_ONCE", at_once)
    rows = [{"text": "ab c_d"}, {"text": ""}, {"text": "x__ hij"}, {"text": "k__ l"}]
    source = source_of(tmp_path / "a.json", "[" + ",\n".join(map(json.dumps, rows)) + "]")
    report = write_once(tmp_path / "c", lambda writer: fill(writer, source, letters))
    cached = TokenRows(tmp_path / "c")
    found = [
        ("".join(map(chr, cached.document(n)["input_ids"])), int(cached.place(n).split(":")[-1]))
        for n in range(len(cached))
    ]
    assert found == [("ab", 1), ("c_d", 1), ("hij", 3), ("k__", 4)]
    assert report == {
        "rows": 4,
        "rows_empty": 1,
        "rows_without_target": 1,
        "documents": 4,
        "documents_dropped": 2,
        "tokens": 11,
        "supervised_tokens": 4,
        "longest": 3,
        "format": {"rows": 4},
    }
    assert rows_without_target(RowSet([cached])) == [f"{tmp_path / 'a.json'}:4"]


def test_a_row_that_the_format_refuses_is_named(tmp_path: Path, letters):
    source = source_of(tmp_path / "a.txt", "fine\n\nalso fine\n\noh no!\n\nfine")
    with pytest.raises(DataError) as caught:
        write_once(tmp_path / "c" / "x", lambda writer: fill(writer, source, letters))
    assert str(caught.value) == f"{tmp_path / 'a.txt'}:5: nobody may shout."
    assert list((tmp_path / "c").iterdir()) == []


def test_a_source_without_rows_is_an_error(tmp_path: Path, letters):
    source = source_of(tmp_path / "a.txt", "\n\n")
    with pytest.raises(DataError, match=r"a\.txt: there is not one row with text in it"):
        write_once(tmp_path / "c", lambda writer: fill(writer, source, letters))


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    """A small tokenizer with a chat template, trained on the shipped conversations."""
    from processors import TrainOptions, train_bpe

    lines = (ROOT / "recipes/data/chat/train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [message["content"] for line in lines for message in json.loads(line)["messages"]]
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(texts, TrainOptions(vocab_size=600), "chatml").save(folder)
    return folder


@pytest.fixture
def chat(tmp_path: Path, tokenizer_folder: Path) -> TokenizedSource:
    return TokenizedSource(
        source=SourceOptions(path="data/chat/train.jsonl", format="chat"),
        tokenizer=str(tokenizer_folder),
        tokenizer_fingerprint="as trained",
        cache_dir=str(tmp_path / "cache"),
        max_length=256,
        roots=(str(ROOT / "recipes"),),
    )


def test_shipped_conversations_from_file_to_batch(chat: TokenizedSource):
    assert chat.cached() is None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        folder, report = child.submit(tokenize_source, chat).result()
    cached = chat.cached()
    assert cached is not None
    assert cached.folder == folder == chat.folder()
    assert report == cached.report
    assert report["rows"] == 844
    assert report["longest"] <= 256
    assert report["tokens"] == cached.lengths.sum()
    assert report["supervised_tokens"] == cached.supervised.sum()
    assert 0.2 < report["supervised_tokens"] / report["tokens"] < 0.8
    assert cached.place(0).endswith("data/chat/train.jsonl:1")
    rows = RowSet([cached], capacity=256)
    assert rows_without_target(rows) == []
    assert rows.efficiency > 0.98
    batches = Batches(rows, DataCollatorWithFlattening(), seed=0, per_device_batch_size=4)
    targets = sum(
        int((batch["labels"] != -100).sum())
        for _ in range(batches.steps_per_epoch)
        for batch in next(batches)
    )
    assert targets == report["supervised_tokens"]


def test_the_cache_follows_everything_that_decides_the_tokens(chat: TokenizedSource, tmp_path: Path):
    others = [
        replace(chat, max_length=128),
        replace(chat, tokenizer_fingerprint="another"),
        replace(chat, format_options={"train_on": "last"}),
        replace(chat, source=replace(chat.source, path="data/chat/validation.jsonl")),
        replace(chat, source=replace(chat.source, format="text")),
    ]
    assert len({work.folder() for work in [chat, *others]}) == 6
    same = replace(chat, tokenizer=str(tmp_path), source=replace(chat.source, weight=3.0))
    assert same.folder() == chat.folder()


def test_a_row_that_is_no_conversation_is_named(chat: TokenizedSource, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
        '{"text": 1}\n'
    )
    with pytest.raises(DataError) as caught:
        tokenize_source(replace(chat, source=replace(chat.source, path=str(path))))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert not list(Path(chat.cache_dir).iterdir())


def test_a_warm_cache_is_read_without_torch_datasets_or_tokenizers(chat: TokenizedSource):
    tokenize_source(chat)
    code = (
        "import sys; from trainer.data.tokenizing import TokenizedSource;"
        "from trainer.data.sources import SourceOptions;"
        f"work = {chat!r}; rows = work.cached(); assert len(rows) == {len(chat.cached() or ())};"
        "sys.exit(bool({'torch', 'datasets', 'tokenizers', 'jinja2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
