"""Result files of commands: whole or not at all, wherever they are asked for."""

import json
import os
import resource
import threading

import pytest

from vla_cli.errors import CommandError
from vla_cli.result_files import require_writable, write_result

CONTENT = {"figures": [1.5, "ö"]}


def test_a_file_and_its_folders_are_made(tmp_path):
    file = tmp_path / "a" / "b" / "result.json"
    write_result(file, CONTENT)
    assert json.loads(file.read_text()) == CONTENT
    assert os.listdir(file.parent) == ["result.json"]
    assert file.stat().st_mode & 0o444 == 0o444


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "result.json"
    file.write_text("before")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # as on a full disk
    try:
        with pytest.raises(CommandError, match=r"cannot write .*result\.json: File too large"):
            write_result(file, ["x" * 5000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert file.read_text() == "before" and os.listdir(tmp_path) == ["result.json"]


def test_a_link_stays_a_link_and_a_file_keeps_its_rights(tmp_path):
    file, link = tmp_path / "result.json", tmp_path / "link.json"
    file.write_text("before")
    file.chmod(0o600)
    link.symlink_to(file)
    write_result(link, CONTENT)
    assert link.is_symlink() and json.loads(file.read_text()) == CONTENT
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_pipe_gets_the_text(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_result(pipe, CONTENT)
    reader.join()
    assert json.loads(read[0]) == CONTENT and pipe.is_fifo()


def test_what_cannot_be_written_is_named_before_the_work(tmp_path):
    with pytest.raises(CommandError, match="Is a directory; name another file"):
        require_writable(tmp_path)
    require_writable(tmp_path / "new.json", None, "")
    assert not os.listdir(tmp_path)
