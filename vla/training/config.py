"""Training configuration: one dataclass, read from YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from vla.models.config import CheckpointError, from_dict
from vla.sim.demonstrations import DemonstrationConfig
from vla.training.corrections import CorrectionConfig


@dataclass
class TrainConfig:
    """A training run.

    preset: of the model. contract: embodiment contract, the path of a file or the name of a shipped
    one. dataset: folder of frame shards, made from `demonstrations` where shards are missing;
    corrections: episodes that the policy drives, made once during the run and added to it. output:
    folder of the run. initialize_from: checkpoint folder whose weights, tokenizer and
    statistics a new run starts with; empty for random weights. steps, batch_size: of the optimiser;
    question_rows: rows of each batch that ask about the scene instead of acting. think_share: of
    action rows that answer first. flow_samples: noise draws per chunk. learning_rate: peak, reached
    after warmup_steps, then cosine to final_rate_share of it. text_weight: of the
    cross-entropy; grounding_weight: of finding where the gripper acts next. ema_decay: of the
    averaged weights that are exported. shift: random image shift [px]; brightness: relative;
    state_noise: standard deviation on the normalised state.
    """

    preset: str = "nano"
    contract: str = "config/contracts/sim_panda.yaml"
    dataset: str = "datasets/table_top"
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    corrections: CorrectionConfig = field(default_factory=CorrectionConfig)
    output: str = "runs/nano"
    initialize_from: str = ""
    seed: int = 0
    steps: int = 6000
    batch_size: int = 48
    question_rows: int = 8
    think_share: float = 0.3
    flow_samples: int = 2
    learning_rate: float = 1e-3
    warmup_steps: int = 150
    final_rate_share: float = 0.02
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    text_weight: float = 0.2
    grounding_weight: float = 0.3
    ema_decay: float = 0.998
    shift: int = 2
    brightness: float = 0.2
    state_noise: float = 0.02
    save_every: int = 250
    log_every: int = 10


def read_train_config(path: str | Path) -> TrainConfig:
    """Reads a YAML file. Raises CheckpointError that names an unknown or unreadable entry."""
    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise CheckpointError(f"cannot read training config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise CheckpointError(f"{path} is not valid YAML: {error}") from error
    return from_dict(TrainConfig, values, str(path))


def write_train_config(config: TrainConfig, path: str | Path) -> None:
    """Writes the configuration as YAML."""
    Path(path).write_text(yaml.safe_dump(asdict(config), sort_keys=False))
