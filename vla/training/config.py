"""Training configuration: one dataclass, read from YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from vla.core.shown import shown_path
from vla.datasets.sources import ConversationData, RobotData
from vla.policies.augment import Augmentation
from vla.policies.collation import PromptSampling
from vla.policies.config import AdapterConfig, CheckpointError, LoraConfig, bounded, from_dict
from vla.training.recipes import read_with_parents
from vla.training.source_registry import CONVERSATION_SOURCES, ROBOT_SOURCES

# Entries of a configuration that name data, what each is, and the sources of their kinds.
_SECTIONS = (
    ("robot", RobotData, ROBOT_SOURCES),
    ("conversations", ConversationData, CONVERSATION_SOURCES),
)


@dataclass
class TrainedParts:
    """Which parts of a backbone the objective `policy` trains; adapters and heads always learn."""

    vision: bool = True  # its vision encoder
    connector: bool = True  # between vision and language
    language: bool = True  # its decoder
    embeddings: bool = True  # of words
    resampler: bool = True  # a perceiver behind the vision encoder, where the policy has one
    last_layers: int = bounded(0, 0, 512)  # of the decoder, these alone; 0 for all


@dataclass
class TrainConfig:
    """A training run."""

    # Training objective: a file of vla/training/objectives, or that of another package.
    stage: str = "action"
    # Size of the model, by name.
    preset: str = "nano"
    # Entries of the model's configuration that differ from the preset's, or from those of the
    # checkpoint that initialize_from names, whose weights have to fit.
    model: dict[str, Any] = field(default_factory=dict)
    # Parts of the backbone that the objective `policy` trains.
    trains: TrainedParts = field(default_factory=TrainedParts)
    # LoRA experts of the model's language model.
    lora: LoraConfig = field(default_factory=LoraConfig)
    # With stage adapt, the adapter that is trained.
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    # Embodiment contract, the path of a file or the name of a shipped one.
    contract: str = "config/contracts/sim_panda.yaml"
    # Kind and Hugging Face id or folder of a released vision-language model that takes the place of
    # the preset's.
    backbone: str = ""
    backbone_source: str = ""
    # False: its architecture with random weights, so without its pretraining.
    pretrained: bool = True
    # Whether Python code of backbone_source may run, where kind generic needs it.
    allow_remote_code: bool = False
    # Checkpoint folder that a new run starts from; its LoRA experts go to the experts of those
    # names. Without it, and without a backbone or vision_source, the weights are random.
    initialize_from: str = ""
    # Hugging Face id, folder or timm file of a pretrained DINOv2 for a policy that has one beside
    # its vision-language model. It takes the place of what initialize_from has there.
    vision_source: str = ""
    # Paths of weights that may stay random, and of weights of a source that may be left over, where
    # training would refuse it: `expert.vision`, or patterns with *.
    allow_missing: tuple[str, ...] = ()
    allow_unexpected: tuple[str, ...] = ()
    robot: tuple[RobotData, ...] = ()
    conversations: tuple[ConversationData, ...] = ()
    output: str = "runs/nano"  # folder of the run
    seed: int = 42
    steps: int = bounded(10000, 0, 1e9)  # of the optimiser
    # Instead of steps: passes over all frames of the robot data; 0 for none.
    epochs: float = bounded(0.0, 0, 1e6)
    # Frames and conversations of a step on one process; 0 for none.
    batch_size: int = bounded(32, 0, 1e6)
    conversation_batch_size: int = bounded(0, 0, 1e6)
    # Longest conversation in tokens, images among them; longer ones are cut, see docs/data.md, and
    # those whose images leave no room for words replaced by the next one. 0 for any length.
    max_tokens: int = bounded(1024, 0, 1e6)
    prompts: PromptSampling = field(default_factory=PromptSampling)
    augmentation: Augmentation = field(default_factory=Augmentation)
    flow_samples: int = bounded(1, 1, 1000)  # draws of noise and time per chunk
    learning_rate: float = bounded(5e-5, 0, 10)  # peak, reached after warmup_steps
    # "constant" from the peak on, or "cosine" to final_rate_share of it.
    schedule: str = "constant"
    warmup_steps: int = 0
    warmup_epochs: float = bounded(0.0, 0, 1e6)  # instead of warmup_steps, as `epochs`
    final_rate_share: float = bounded(0.02, 0, 1)
    weight_decay: float = bounded(0.0, 0, 10)  # AdamW's, on matrices only
    betas: tuple[float, float] = bounded((0.9, 0.999), 0, 0.999999)
    gradient_clip: float = bounded(1.0, 0, 1e6)
    # Weights of losses: cross-entropy of the text; knowing what each image token shows; finding
    # where the gripper acts next.
    text_weight: float = bounded(1.0, 0, 1e6)
    naming_weight: float = bounded(0.0, 0, 1e6)
    grounding_weight: float = bounded(0.0, 0, 1e6)
    # Of the averaged weights that are exported; 0 exports the weights as they are.
    ema_decay: float = bounded(0.0, 0, 0.999999)
    checkpoint_activations: bool = False  # less memory, more time
    # Layers run as Inductor compiles them, after minutes of it; not where they are sharded.
    compile_layers: bool = False
    precision: str = "no"  # "no" or "bf16"
    # Processes that make batches; -1: as many as leave a GPU's process a core, none on a CPU.
    workers: int = bounded(-1, -1, 1024)
    # Share of each data set's end that is kept out of training and measured every validate_every
    # steps on validation_batches batches.
    validation_share: float = bounded(0.0, 0, 0.9)
    validate_every: int = bounded(500, 1, 1e9)
    validation_batches: int = 8
    save_every: int = bounded(250, 1, 1e9)
    log_every: int = bounded(10, 1, 1e9)


def read_train_config(path: str | Path) -> TrainConfig:
    """Reads a YAML file, with its parents (vla.training.recipes).

    Raises CheckpointError that names an unknown or unreadable entry.
    """
    return train_config(read_with_parents(path), shown_path(path))


def train_config(values: Any, where: str) -> TrainConfig:
    """A configuration from plain values. Raises CheckpointError that names a bad entry.

    where: they are from, for error messages. Entries at the top that are options of a data source
    are read into those, see RobotSource.former_entries.
    """
    if isinstance(values, dict) and not values.keys() <= {f.name for f in fields(TrainConfig)}:
        values = _with_former_entries(dict(values), where)
    config = from_dict(TrainConfig, values, where)
    for section, _, registry in _SECTIONS:
        for number, entry in enumerate(getattr(config, section), start=1):
            if entry.options and entry.kind in registry:
                at = f"{where}: {section} {number}: options"
                kind = registry[entry.kind].options
                if kind is None:
                    raise CheckpointError(f"{at}: data of kind '{entry.kind}' has none")
                from_dict(kind, entry.options, at)
    return config


def _with_former_entries(values: dict, where: str) -> dict:
    """The values with entries of version 0.1 moved to the options of data sources."""
    for section, entry, registry in _SECTIONS:
        for kind in registry.names():
            source = registry[kind]
            for name, option in source.former_entries.items():
                if name not in values or source.options is None:
                    continue
                given = values.pop(name)
                from_dict(source.options, {option: given} if option else given,
                          where if option else f"{where}: {name}")  # fmt: skip
                entries = values.get(section)
                if isinstance(entries, list | tuple):
                    values[section] = _given_options(entries, entry.kind, kind, option, given)
    return values


def _given_options(
    entries: list | tuple, default: str, kind: str, option: str, given: dict
) -> list:
    """The entries of a section with options added to those of a kind.

    Options as a whole ("") go to every such entry, a single one to the first.
    """
    changed = list(entries)
    own = [
        index
        for index, entry in enumerate(entries)
        if isinstance(entry, dict) and entry.get("kind", default) == kind
    ]
    for index in own[:1] if option else own:
        options = changed[index].get("options", {})
        before = options.get(option, {}) if option and isinstance(options, dict) else options
        if isinstance(before, dict):  # What is not is refused with the rest of the entry.
            merged = {**before, **given}
            options = {**options, option: merged} if option else merged
            changed[index] = {**changed[index], "options": options}
    return changed


def write_train_config(config: TrainConfig, path: str | Path) -> None:
    """Writes the configuration as YAML."""
    Path(path).write_text(train_config_text(config))


def train_config_text(config: TrainConfig) -> str:
    """The configuration as YAML, with every entry."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def _plain(value):
    """Tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
