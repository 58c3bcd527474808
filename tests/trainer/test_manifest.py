"""Durable folders: whole or not there, and every kind of later damage is found and named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.errors import CheckpointError
from trainer import hashing, manifest
from trainer.manifest import FileRecord, Folder, Manifest, clean_leftovers, publish, require_space, verify


def make(path: Path, size: int = 1000) -> Path:
    with publish(path, about={"step": 7}) as folder:
        with folder.open("model.safetensors") as stream:
            stream.write(bytes(range(250)) * (size // 250))
        folder.write_json("trainer_state.json", {"step": 7})
        folder.write_text("training/notes.txt", "héllo")
    return path


def attempt(path: Path, *actions: Callable[[Folder], object]) -> None:
    """Publish a folder that the actions fill."""
    with publish(path) as folder:
        for action in actions:
            action(folder)


def hidden(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir() if path.name.startswith("."))


def test_published_folder_holds_its_files_and_their_records(tmp_path: Path) -> None:
    path = make(tmp_path / "run" / "checkpoint-7")
    found = verify(path)
    assert found.about == {"step": 7}
    assert set(found.files) == {"model.safetensors", "trainer_state.json", "training/notes.txt"}
    content = (path / "model.safetensors").read_bytes()
    expected = FileRecord(size=1000, sha256=hashlib.sha256(content).hexdigest())
    assert content == bytes(range(250)) * 4
    assert found.files["model.safetensors"] == expected
    assert json.loads((path / "trainer_state.json").read_text()) == {"step": 7}
    assert (path / "training/notes.txt").read_text(encoding="utf-8") == "héllo"
    assert hidden(path.parent) == []


def test_writing_in_pieces_of_any_buffer_hashes_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "CHUNK", 64)
    pieces = [b"", b"a" * 63, bytearray(b"b" * 200), memoryview(b"c" * 64), memoryview(b"1234" * 9).cast("I")]
    with publish(tmp_path / "x") as folder, folder.open("data") as stream:
        assert [stream.write(piece) for piece in pieces] == [0, 63, 200, 64, 36]
        assert stream.tell() == 363
    assert (tmp_path / "x/data").read_bytes() == b"".join(bytes(piece) for piece in pieces)
    verify(tmp_path / "x")


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    with publish(tmp_path / "x") as folder:
        folder.write_text("a", "b")
        assert not (tmp_path / "x").exists()
        assert folder.path.parent == tmp_path
    assert (tmp_path / "x/a").exists()


def test_everything_is_flushed_before_the_rename_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_sync(descriptor)

    def rename(old: Path, new: Path) -> None:
        events.append("RENAME")
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    with publish(tmp_path / "x") as folder:
        folder.write_text("sub/a", "1")
        (folder.path / "b").write_text("written by others")
    before, after = events[: events.index("RENAME")], events[events.index("RENAME") + 1 :]
    assert before[:4] == ["a", "b", "MANIFEST.json", "sub"]
    assert before[4].startswith(".staging-x-")
    assert len(before) == 5
    assert after == [tmp_path.name]


def test_files_that_others_put_there_are_hashed_too(tmp_path: Path) -> None:
    with publish(tmp_path / "x") as folder:
        (folder.path / "deep").mkdir()
        (folder.path / "deep" / "tokenizer.json").write_text("{}")
    assert verify(tmp_path / "x").files["deep/tokenizer.json"].sha256 == hashlib.sha256(b"{}").hexdigest()


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="neither a folder nor an ordinary file"),
        publish(tmp_path / "x") as folder,
    ):
        (folder.path / "link").symlink_to("/etc/hostname")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("relpath", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "MANIFEST.json"])
def test_paths_that_leave_the_folder_or_name_the_manifest_are_refused(tmp_path: Path, relpath: str) -> None:
    with pytest.raises(ValueError, match=r"no plain relative path|is already in"):
        attempt(tmp_path / "x", lambda folder: folder.open(relpath))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_once_and_closed(tmp_path: Path) -> None:
    def write_a(folder: Folder) -> None:
        folder.write_text("a", "1")

    with pytest.raises(ValueError, match="a is already in"):
        attempt(tmp_path / "x", write_a, write_a)
    kept = []
    with pytest.raises(ValueError, match=r"still open .*\['a'\]"):
        attempt(
            tmp_path / "x", lambda folder: kept.append(folder.open("a")), lambda folder: kept[0].write(b"1")
        )
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(folder: Folder) -> None:
        folder.write_text("a", "b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path / "x", interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_writing_failed_is_not_published_even_if_the_error_is_swallowed(tmp_path: Path) -> None:
    with publish(tmp_path / "x") as folder:
        try:
            with folder.open("half") as stream:
                stream.write(b"123")
                raise RuntimeError
        except RuntimeError:
            folder.write_text("whole", "1")
    assert set(verify(tmp_path / "x").files) == {"whole"}
    assert not (tmp_path / "x/half").exists()


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_a_full_disk_leaves_the_run_folder_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    """The disk fills in the first file, in a later one, or when the manifest is written."""
    old = make(tmp_path / "checkpoint-1")
    calls = 0
    real = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    writes = [lambda folder, name=name: folder.write_text(name, "x" * 100) for name in ("a", "b")]
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        attempt(tmp_path / "checkpoint-2", *writes)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    verify(old)
    verify(make(tmp_path / "checkpoint-2"))


def test_a_write_that_really_fails_passes_its_error_on(tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: the system itself refuses the bytes."""
    script = f"""
import resource, signal
from pathlib import Path
from trainer.manifest import publish
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with publish(Path({str(tmp_path / "x")!r})) as folder:
        with folder.open("big") as stream:
            for _ in range(100):
                stream.write(bytes(1 << 18))
except OSError as error:
    print("raised", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"raised {errno.EFBIG}"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_that_name_is_replaced(tmp_path: Path) -> None:
    path = make(tmp_path / "x")
    (path / "extra").write_text("old")
    with publish(path) as folder:
        folder.write_text("new", "1")
        assert (path / "model.safetensors").exists()
    assert set(verify(path).files) == {"new"}
    assert sorted(file.name for file in path.iterdir()) == ["MANIFEST.json", "new"]
    assert hidden(tmp_path) == []


def test_a_failed_rename_gives_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "x")
    real = os.rename

    def rename(old: Path, new: Path) -> None:
        if Path(old).name.startswith(".staging-"):
            raise OSError(errno.EIO, "Input/output error")
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="Input/output"), publish(path) as folder:
        folder.write_text("new", "1")
    verify(path)
    assert hidden(tmp_path) == []


# --- damage --------------------


def truncate(path: Path) -> None:
    os.truncate(path / "model.safetensors", 999)


def flip(path: Path, name: str = "model.safetensors", position: int = 500) -> None:
    content = bytearray((path / name).read_bytes())
    content[position] ^= 1
    (path / name).write_bytes(content)


def lengthen(path: Path) -> None:
    with (path / "model.safetensors").open("ab") as stream:
        stream.write(b"x")


DAMAGE = {
    "truncated": (truncate, r"model\.safetensors is truncated: 999 bytes of 1000\.", True),
    "lengthened": (lengthen, r"model\.safetensors is too long: 1001 bytes of 1000\.", True),
    "flipped byte": (flip, r"model\.safetensors is damaged: its content does not fit", False),
    "missing file": (
        lambda p: (p / "training/notes.txt").unlink(),
        r"training/notes\.txt is missing\.",
        True,
    ),
    "missing manifest": (
        lambda p: (p / "MANIFEST.json").unlink(),
        r"x has no MANIFEST\.json, so it was never",
        True,
    ),
    "truncated manifest": (
        lambda p: os.truncate(p / "MANIFEST.json", 100),
        r"MANIFEST\.json cannot be used",
        True,
    ),
    "empty manifest": (lambda p: os.truncate(p / "MANIFEST.json", 0), r"MANIFEST\.json cannot be used", True),
    "manifest of zeros": (
        lambda p: (p / "MANIFEST.json").write_bytes(bytes(300)),
        r"MANIFEST\.json cannot be",
        True,
    ),
    "manifest is a list": (
        lambda p: (p / "MANIFEST.json").write_text("[]"),
        r"MANIFEST\.json cannot be used",
        True,
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    damage, message, seen_by_sizes = DAMAGE[kind]
    path = make(tmp_path / "x")
    damage(path)
    with pytest.raises(CheckpointError, match=message):
        verify(path)
    if seen_by_sizes:
        with pytest.raises(CheckpointError, match=message):
            verify(path, full=False)
    else:
        verify(path, full=False)


def test_any_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    path = make(tmp_path / "x")
    text = (path / "MANIFEST.json").read_bytes()
    for position in range(len(text)):
        if not chr(
            text[position]
        ).isspace():  # a space that becomes a ! is noticed too; a newline may not matter
            flip(path, "MANIFEST.json", position)
            with pytest.raises(CheckpointError):
                verify(path)
            (path / "MANIFEST.json").write_bytes(text)
    verify(path)


def test_a_folder_that_is_not_there_and_a_version_of_the_future(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        verify(tmp_path / "nothing")
    path = make(tmp_path / "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "VERSION", 2)
        text = Manifest(files={}).dumps()
    (path / "MANIFEST.json").write_text(text)
    with pytest.raises(CheckpointError, match="has version 2, this program reads version 1"):
        verify(path)


def test_a_manifest_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    path = make(tmp_path / "x")
    record = FileRecord(size=0, sha256="0")
    (path / "MANIFEST.json").write_text(Manifest(files={"../../secret": record}).dumps())
    with pytest.raises(CheckpointError, match="no plain relative path"):
        verify(path)


def test_about_may_hold_any_json(tmp_path: Path) -> None:
    about = {"step": 1, "nested": {10: "a", 9: None}, "list": [1.5, float("inf"), "é"]}
    with publish(tmp_path / "x", about=about):
        pass
    assert verify(tmp_path / "x").about == {
        "step": 1,
        "nested": {"10": "a", "9": None},
        "list": about["list"],
    }


# --- links --------------------


def test_linking_shares_the_bytes_and_takes_the_hash_from_the_manifest(tmp_path: Path) -> None:
    old = make(tmp_path / "old")
    with publish(tmp_path / "new") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "record_of", lambda path: pytest.fail("the file was read again"))
        folder.link("weights/model.safetensors", old / "model.safetensors")
    linked = tmp_path / "new/weights/model.safetensors"
    assert linked.samefile(old / "model.safetensors")
    assert (
        verify(tmp_path / "new").files["weights/model.safetensors"] == verify(old).files["model.safetensors"]
    )


def test_linking_a_file_of_no_manifest_hashes_it(tmp_path: Path) -> None:
    (tmp_path / "loose").write_text("abc")
    with publish(tmp_path / "new") as folder:
        folder.link("a", tmp_path / "loose")
    assert verify(tmp_path / "new").files["a"] == FileRecord(
        size=3, sha256=hashlib.sha256(b"abc").hexdigest()
    )


def test_a_file_changed_since_its_manifest_is_hashed_anew(tmp_path: Path) -> None:
    old = make(tmp_path / "old")
    truncate(old)
    with publish(tmp_path / "new") as folder:
        folder.link("a", old / "model.safetensors")
    assert verify(tmp_path / "new").files["a"].size == 999


def test_where_links_cannot_be_had_the_file_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    old = make(tmp_path / "old")
    monkeypatch.setattr(os, "link", no_link)
    with publish(tmp_path / "new") as folder:
        folder.link("a", old / "model.safetensors")
    assert verify(tmp_path / "new").files["a"] == verify(old).files["model.safetensors"]
    assert not (tmp_path / "new/a").samefile(old / "model.safetensors")


# --- leftovers and space --------------------


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path / "checkpoint-1")
    (tmp_path / ".hidden").mkdir()
    for name in (".staging-checkpoint-2-99-ab", ".deleting-checkpoint-0-cd"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/file").write_text("x")
    removed = clean_leftovers(tmp_path)
    assert [path.name for path in removed] == [".staging-checkpoint-2-99-ab", ".deleting-checkpoint-0-cd"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "checkpoint-1"]
    assert clean_leftovers(tmp_path / "no such folder") == []


def test_the_staging_folder_of_a_live_process_is_left_alone_and_of_a_killed_one_removed(
    tmp_path: Path,
) -> None:
    script = f"""
import time
from pathlib import Path
from trainer.manifest import publish
with publish(Path({str(tmp_path / "x")!r})) as folder:
    folder.write_text("a", "b")
    print("ready", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, publish(tmp_path / "mine") as folder:
        assert child.stdout.readline() == b"ready\n"
        assert clean_leftovers(tmp_path) == []
        folder.write_text("a", "b")
        assert len(hidden(tmp_path)) == 2
        child.kill()
        child.wait()
        assert [path.name[:10] for path in clean_leftovers(tmp_path)] == [".staging-x"]
    verify(tmp_path / "mine")
    assert hidden(tmp_path) == []


def test_cleaning_that_comes_before_the_lock_makes_the_writer_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cleaned = manifest._lock, []

    def lock(descriptor: int, operation: int) -> None:
        if not cleaned:
            cleaned.append(True)
            assert len(clean_leftovers(tmp_path)) == 1
        real(descriptor, operation)

    monkeypatch.setattr(manifest, "_lock", lock)
    verify(make(tmp_path / "x"))
    assert cleaned
    assert hidden(tmp_path) == []


def test_too_little_space_is_said_with_both_figures(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    require_space(tmp_path / "not/yet/there", 1)
    with pytest.raises(CheckpointError, match=r"x needs [\d,]+ bytes and its disk has [\d,]+ free"):
        require_space(tmp_path / "x", 2 * free)
    with pytest.raises(CheckpointError, match="nothing was written"):
        require_space(tmp_path / "x", free // 2, margin=2.0)
