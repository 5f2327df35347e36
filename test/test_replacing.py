"""Files that appear whole or not at all."""

import os

import pytest

from vla.core.replacing import replace_text, replacing


def test_a_file_gets_its_new_content_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "figures.json"
    replace_text(path, "old")
    replace_text(path, "ünlü", durable=True)
    assert path.read_text(encoding="utf-8") == "ünlü"
    assert os.listdir(tmp_path) == ["figures.json"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="broken"), replacing(path) as new:
        new.write_bytes(b"half")
        raise ValueError("broken")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


def test_a_link_in_the_way_is_not_written_through(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "info.json"
    path.symlink_to(outside)
    replace_text(path, "new")
    assert outside.read_text() == "mine"
    assert path.read_text() == "new" and not path.is_symlink()


def test_the_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    replace_text(tmp_path / "replaced", "")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "replaced").chmod(0o600)
    replace_text(tmp_path / "replaced", "new")
    assert (tmp_path / "replaced").stat().st_mode & 0o777 == 0o600
