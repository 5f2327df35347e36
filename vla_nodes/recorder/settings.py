"""The parameters of the node `recorder`."""

from __future__ import annotations

from vla_nodes.core.settings import Setting

SETTINGS = (
    Setting(
        "contract",
        "sim_panda",
        "Embodiment contract: path of a YAML file, or the name of one in config/contracts.",
    ),
    Setting("directory", "output/bags", "Folder that the bags are written to.", live=True),
    Setting(
        "compressed",
        False,
        "Record TOPIC/compressed (sensor_msgs/CompressedImage) of each camera instead of TOPIC.",
    ),
    Setting(
        "record_observation",
        False,
        "Also record vla/observation, which repeats images and state: needed to measure delays.",
        live=True,
    ),
    Setting("extra_topics", [""], "More topics, each as 'name package/msg/Type'."),
    Setting("excluded_topics", [""], "Topics to leave out, by the names that the node uses."),
    Setting(
        "compression",
        "none",
        "Compression of the bags.",
        choices=("none", "zstd", "lz4"),
        live=True,
    ),
    Setting(
        "freshness",
        1.0,
        "An episode starts only if every topic of the contract was heard within this time [s].",
        bounds=(0.05, 60.0),
        live=True,
    ),
    Setting(
        "flush_period",
        0.5,
        "A crash loses at most what came within this time [s].",
        bounds=(0.05, 1.0),
        live=True,
    ),
    Setting(
        "queue_size",
        256.0,
        "Memory for messages that wait for the disk; beyond it they are dropped [MiB].",
        bounds=(1.0, 65536.0),
        live=True,
    ),
    Setting(
        "minimum_free_space",
        500.0,
        "Recording is refused, and ends, when the disk has less left than this [MiB].",
        bounds=(1.0, 1e6),
        live=True,
    ),
    Setting(
        "ring_buffer",
        0.0,
        "Keep what came within this time in memory, for vla/save_recent; 0: off [s].",
        bounds=(0.0, 3600.0),
    ),
    Setting(
        "ring_buffer_size",
        1024.0,
        "Memory that the ring buffer may take; while it is saved, up to twice that [MiB].",
        bounds=(1.0, 65536.0),
    ),
    Setting(
        "auto_record",
        False,
        "Record one episode for each instruction to act or think, without being asked to.",
        live=True,
    ),
)
