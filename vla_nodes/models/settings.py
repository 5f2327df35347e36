"""Parameters that the two model nodes have in common."""

from __future__ import annotations

from vla.policies.compiled import MODES
from vla.policies.inference_dtype import DTYPES
from vla_nodes.core.settings import Setting
from vla_nodes.models.server import SERVER_SETTINGS

MODEL_SETTINGS = (
    Setting(
        "contract",
        "sim_panda",
        "Embodiment contract: path of a YAML file, or name of one in config/contracts.",
    ),
    Setting("checkpoint", "", "Folder of the policy's checkpoint."),
    Setting(
        "adapter",
        "",
        "Folder of an adapter that is loaded with the checkpoint; empty for none.",
    ),
    Setting("device", "cpu", "Where the model runs: cpu, cuda or cuda:N."),
    Setting(
        "dtype",
        "auto",
        "Number type of the model's weights; auto: bfloat16 on a GPU, float32 on a CPU.",
        choices=DTYPES,
    ),
    Setting(
        "compile",
        "none",
        "How the model's passes run: as they are, compiled by inductor, or compiled and recorded "
        "as CUDA graphs (manual). Compiling lengthens the first start by minutes.",
        choices=MODES,
    ),
    Setting(
        "threads",
        0,
        "CPU threads of the model; 0: as many as make it faster here, measured once.",
        bounds=(0, 1024),
    ),
    Setting(
        "max_rate",
        0.0,
        "Most results per second [Hz]; 0: as many as the model can.",
        bounds=(0.0, 1000.0),
        live=True,
    ),
    Setting(
        "max_load",
        1.0,
        "Largest share of the time that the model computes, on a server, too; 1: all of it. After "
        "a result the node rests for as long as that takes, and leaves the processor to others.",
        bounds=(0.05, 1.0),
        live=True,
    ),
    Setting(
        "max_observation_age",
        0.5,
        "Oldest observation that is still worked on [s].",
        bounds=(0.01, 60.0),
        live=True,
    ),
    *SERVER_SETTINGS,
)
