"""From a source's raw rows to its token cache, in this process or as the work of a child."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from conf.errors import DataError
from trainer.data.cache import (
    Document,
    TokenRows,
    TokenWriter,
    content_key,
    count_supervised,
    is_complete,
    write_once,
)
from trainer.data.sources import Row, Source, SourceOptions

ROWS_AT_ONCE = 256  # tokenized together


class Format(Protocol):
    """What turns raw rows into documents."""

    def encode_batch(self, rows: Sequence[dict[str, Any]]) -> list[list[Document]]:
        """The documents of each row; raises ``RowError`` with the ``index`` of a row that is bad."""
        ...

    def report(self) -> Any:
        """What it saw so far, a dataclass."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenizedSource:
    """One source with everything that decides its tokens: plain values, fit to be sent to a child process.

    ``tokenizer`` is the folder to load the tokenizer (and chat template) from, and ``tokenizer_fingerprint``
    says what is in it, whatever the folder is called. ``check_rows``: how many of the first rows are checked
    against what was made of them.
    """

    source: SourceOptions
    tokenizer: str
    tokenizer_fingerprint: str
    cache_dir: str
    max_length: int
    check_rows: int = 0
    format_options: Mapping[str, Any] = field(default_factory=dict)
    roots: tuple[str, ...] = ()

    def folder(self) -> Path:
        """The cache folder these settings lead to, whether it is there or not; reads the source's files."""
        source = Source(self.source, self.roots)
        name = content_key(
            source=source.fingerprint(),
            tokenizer=self.tokenizer_fingerprint,
            format=self.source.format,
            format_options=dict(self.format_options),
            max_length=self.max_length,
            check_rows=self.check_rows,
        )
        return Path(self.cache_dir).expanduser() / name

    def cached(self) -> TokenRows | None:
        """The tokenized rows if they are there; else None, and ``tokenize_source`` makes them."""
        folder = self.folder()
        return TokenRows(folder) if is_complete(folder) else None


def tokenize_source(work: TokenizedSource) -> tuple[Path, dict[str, Any]]:
    """Tokenize a source into its cache folder unless it is there; returns the folder and the report.

    Raises DataError naming file and line of a row that cannot be used, and for a source without a row.
    """
    folder = work.folder()
    source = Source(work.source, work.roots)
    return folder, write_once(folder, lambda writer: fill(writer, source, _format_of(work)))


def _format_of(work: TokenizedSource) -> Format:
    from conf.plugins import options_of, thing_of
    from processors import FORMATS, Tokenizer

    name, path = work.source.format, f"{work.source.path}: format"
    options = options_of(FORMATS, name, path)(**work.format_options)
    tokenizer = Tokenizer.load(work.tokenizer)
    return thing_of(FORMATS, name, path)(options, tokenizer=tokenizer, max_length=work.max_length)


def fill(writer: TokenWriter, source: Source, form: Format, check_rows: int = 0) -> dict[str, Any]:
    """Write the documents of every row; returns the report.

    The first ``check_rows`` rows are checked, where the format can. Of a row with several documents those
    without any target are left out, as nothing can be learnt from them; a row that has no target at all
    stays, to be named by whoever trains on it.
    """
    rows = empty = dropped = without = 0
    for row, documents in encoded(source.rows(), form):
        if rows < check_rows and hasattr(form, "check"):
            _refuse(row, form.check(row.values, documents))
        kept = with_targets(documents)
        rows += 1
        empty += not documents
        dropped += len(documents) - len(kept)
        without += bool(kept) and not count_supervised(kept[0])
        for document in kept:
            writer.add(document, row.file, row.line)
    if not writer.num_documents:
        raise DataError(f"{source.options.path}: there is not one row with text in it.")
    return {
        "rows": rows,
        "rows_empty": empty,
        "rows_without_target": without,
        "documents": writer.num_documents,
        "documents_dropped": dropped,
        "tokens": writer.num_tokens,
        "supervised_tokens": writer.num_supervised,
        "longest": writer.longest,
        "format": asdict(form.report()),
    }


def _refuse(row: Row, problems: Sequence[str]) -> None:
    if problems:
        raise DataError(
            f"{row.file}:{row.line}: {' '.join(problems)} Mend the row or the chat template, or set "
            "data.check_rows=0 to train on it as it is."
        )


def with_targets(documents: list[Document]) -> list[Document]:
    """The documents of one row that have a target, or the first of them where none has."""
    return [document for document in documents if count_supervised(document)] or documents[:1]


def encoded(rows: Iterator[Row], form: Format) -> Iterator[tuple[Row, list[Document]]]:
    """Each row with its documents, many tokenized at a time."""
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        yield from zip(batch, _encode(batch, form), strict=True)


def _encode(rows: Sequence[Row], form: Format) -> list[list[Document]]:
    from processors import RowError

    try:
        return form.encode_batch([row.values for row in rows])
    except RowError as error:
        bad = rows[error.index or 0]
        raise DataError(f"{bad.file}:{bad.line}: {error}") from None
