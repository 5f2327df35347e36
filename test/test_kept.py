"""Indexes in the user's cache: made once, made again when files change, shared by processes."""

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vla.core.kept import KeptFolder, cache_folder, keep, save_array, save_texts, save_values


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vla_ros" / "indexes"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"one two")
    return path


def length_of(source: Path, made: list[int] | None = None):
    """Keeps how long a file is."""

    def make(folder: Path) -> None:
        if made is not None:
            made.append(1)
        save_array(folder, "length", np.array([source.stat().st_size]))
        save_texts(folder, "texts", ["", "gr\u00fcn", "", "red"])
        save_values(folder, "values", {"a": 1})

    return make


def test_it_is_made_once_and_mapped(source):
    made = []
    first, again = (keep("length", [source], "", length_of(source, made)) for _ in range(2))
    assert made == [1] and again.array("length").tolist() == [7]
    assert isinstance(first.array("length"), np.memmap)
    assert [first.text("texts", i) for i in range(4)] == ["", "gr\u00fcn", "", "red"]
    assert first.values("values") == {"a": 1}
    copy = pickle.dumps(first)
    assert pickle.loads(copy).array("length").tolist() == [7] and len(copy) < 1000


@pytest.mark.parametrize("change", ["size", "time", "middle"])
def test_it_is_made_again_when_the_file_changes_and_the_old_one_goes(source, cache, change):
    source.write_bytes(bytes(400_000))
    old, stat = keep("length", [source], "", length_of(source)), source.stat()
    mapped = old.array("length")
    if change == "size":
        source.write_bytes(bytes(400_001))
    else:
        content = bytearray(400_000)
        content[200_000] = int(change == "middle")
        source.write_bytes(content)
    later = int(change == "time")
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + later))
    new = keep("length", [source], "", length_of(source))
    assert new.folder != old.folder and not old.folder.exists()
    assert mapped.tolist() == [400_000]


def test_kinds_and_settings_have_their_own(source, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"1")
    cases = ((a, b, c) for a in ("a", "b") for b in ([source], [source, other]) for c in ("", "x"))
    folders = [keep(kind, files, more, length_of(source)).folder for kind, files, more in cases]
    assert len(set(folders)) == 8
    # Those of one file and of two have one place, since they begin with the same file.
    assert sum(folder.exists() for folder in folders) == 4


def test_what_is_left_of_files_that_are_gone_is_removed(source, tmp_path):
    gone = tmp_path / "gone"
    gone.write_bytes(b"1")
    left = keep("length", [gone], "", length_of(gone)).folder
    abandoned = cache_folder() / ".new-x"
    abandoned.mkdir()
    os.utime(abandoned, (0, 0))
    gone.unlink()
    keep("length", [source], "", length_of(source))
    assert not left.exists() and not abandoned.exists()


def test_nothing_is_kept_of_what_fails(source, cache):
    def make(folder: Path) -> None:
        save_array(folder, "length", np.zeros(1))
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        keep("length", [source], "", make)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert keep("length", [source], "", length_of(source)).array("length").tolist() == [7]


def test_without_a_cache_it_is_made_for_the_process(source, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    made = []
    for _ in range(2):
        kept = keep("length", [source], "none", length_of(source, made))
        assert kept.array("length").tolist() == [7]
    assert made == [1] and "XDG_CACHE_HOME" in caplog.text


def make_slowly(source: Path, started, made) -> None:
    def make(folder: Path) -> None:
        started.set()
        with made.get_lock():
            made.value += 1
        save_array(folder, "length", np.array([1]))

    assert isinstance(keep("slow", [source], "", make), KeptFolder)


def test_of_two_processes_one_makes_it(source):
    context = multiprocessing.get_context("fork")
    started, made = context.Event(), context.Value("i", 0)

    def make(folder: Path) -> None:
        # The other is on its way to the lock, or waits for it already.
        other.start()
        save_array(folder, "length", np.array([1]))

    other = context.Process(target=make_slowly, args=(source, started, made))
    keep("slow", [source], "", make)
    other.join()
    assert other.exitcode == 0 and made.value == 0
