"""The thread between the recorder and the disk: nothing is lost unseen, and a full disk is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rosbags.highlevel import AnyReader

from vla.bags.episode_writer import EpisodeWriter, RecordedTopic
from vla.bags.message_types import load_message_type
from vla.bags.reader import read_messages, read_metadata, recover_bag, validate_bag
from vla.bags.ring_buffer import ReceivedMessage

ROOT = Path(__file__).parents[1]
TOPIC = RecordedTopic("/bytes", load_message_type("std_msgs/msg/UInt8MultiArray", ()))


def test_finish_writes_everything_that_was_put(tmp_path):
    writer = EpisodeWriter(tmp_path / "bag", [TOPIC], {"note": "a"})
    for index in range(2000):
        assert writer.put(ReceivedMessage("/bytes", bytes(100), index, index))
    result = writer.finish({"outcome": "success"})
    assert not writer.put(ReceivedMessage("/bytes", bytes(100), 1, 1))
    assert (result.message_count, result.error, result.drops) == (2000, "", {})
    assert validate_bag(tmp_path / "bag").counts == {"/bytes": 2000}
    custom = read_metadata(tmp_path / "bag").custom_data
    assert custom == {"note": "a", "outcome": "success", "complete": "true"}


def test_written_messages_reach_the_disk_without_being_asked(tmp_path):
    writer = EpisodeWriter(tmp_path / "bag", [TOPIC], {}, flush_period=0.05)
    writer.put(ReceivedMessage("/bytes", bytes(100), 1, 1))
    while read_metadata(tmp_path / "bag").message_count < 1:
        assert not writer.error
    assert len(list(read_messages(tmp_path / "bag", allow_truncated=True))) == 1
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_changed_metadata_reaches_the_disk_without_messages(tmp_path):
    writer = EpisodeWriter(tmp_path / "bag", [TOPIC], {"note": "a"}, flush_period=0.05)
    writer.update({"subtasks": "[1]"})
    while "subtasks" not in read_metadata(tmp_path / "bag").custom_data:
        assert not writer.error
    # Also what comes just before the end.
    writer.update({"subtasks": "[1, 2]", "note": "b"})
    writer.finish({"note": "c"})
    custom = read_metadata(tmp_path / "bag").custom_data
    assert custom == {"note": "c", "subtasks": "[1, 2]", "complete": "true"}


def test_messages_beyond_the_queue_are_dropped_and_counted(tmp_path):
    writer = EpisodeWriter(tmp_path / "bag", [TOPIC], {}, queue_bytes=1000)
    assert not writer.put(ReceivedMessage("/bytes", bytes(1001), 1, 1))
    assert writer.put(ReceivedMessage("/bytes", bytes(1000), 2, 2))
    writer.count_lost("/bytes", 3)
    result = writer.finish({})
    assert (result.message_count, result.drops) == (1, {"/bytes": 4})


# The limit on the size of files stands for a full disk: writing fails in the same place.
FILL_THE_DISK = """
import resource, signal, sys, time
from pathlib import Path
from vla.bags.episode_writer import EpisodeWriter, RecordedTopic
from vla.bags.message_types import load_message_type
from vla.bags.ring_buffer import ReceivedMessage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
topic = RecordedTopic("/bytes", load_message_type("std_msgs/msg/UInt8MultiArray", ()))
writer = EpisodeWriter(Path(sys.argv[1]), [topic], {}, flush_period=0.01)
index = 0
# A hundred times what the disk holds: the error comes long before.
while not writer.error and index < 20_000:
    index += 1
    writer.put(ReceivedMessage("/bytes", bytes(1000), index, index))
    time.sleep(0.0005)
result = writer.finish({})
print(result.error)
"""


def test_full_disk_is_told_and_what_was_written_is_kept(tmp_path):
    bag = tmp_path / "bag"
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(bag)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"cannot write {bag}" in done.stdout and "Traceback" not in done.stderr
    # Before anybody repairs it, too.
    with AnyReader([bag]) as reader:
        readable = reader.message_count
    report = recover_bag(bag)
    assert report.message_count == readable
    assert 50 < report.message_count < 200
    times = [message.receive_time for message in read_messages(bag)]
    assert times == list(range(1, len(times) + 1))
