"""Training configuration: one dataclass, read from YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from vla.core.files import read_yaml
from vla.core.shown import shown_path
from vla.envs.tabletop.corrections import CorrectionConfig
from vla.envs.tabletop.demonstrations import DemonstrationConfig
from vla.envs.tabletop.scenes import SceneConfig
from vla.policies.config import AdapterConfig, CheckpointError, LoraConfig, bounded, from_dict


@dataclass
class PromptSampling:
    """What a robot frame is asked in training (InstructVLA, section 3.3 and its code).

    motion: share of frames with a motion label that is to be said before acting, where nothing else
    is asked. question, context, rewrite: shares of annotated frames that answer a question about
    the scene and then act; that are given a situation and answer first; that are given the
    instruction in other words and answer first. The rest is asked for the action alone. think:
    share of frames that answer their own instruction first.
    """

    motion: float = bounded(0.2, 0, 1)
    question: float = bounded(0.2, 0, 1)
    context: float = bounded(0.2, 0, 1)
    rewrite: float = bounded(0.2, 0, 1)
    think: float = bounded(0.0, 0, 1)


@dataclass
class Augmentation:
    """Random changes of images; the same for all images of a frame.

    crop_area: of the image, cut out at random and enlarged again; 1 for none. shift: random image
    shift [px]. brightness: largest relative change; contrast, saturation: largest relative change;
    hue: largest turn, of a full circle. state_noise: standard deviation on the normalised state.
    """

    crop_area: float = bounded(0.9, 0.01, 1)
    shift: int = bounded(0, 0, 1024)
    brightness: float = bounded(0.2, 0, 1)
    contrast: float = bounded(0.2, 0, 1)
    saturation: float = bounded(0.2, 0, 1)
    hue: float = bounded(0.05, 0, 0.5)
    state_noise: float = bounded(0.0, 0, 10)


@dataclass
class RobotData:
    """Robot episodes for training.

    kind: "simulated" (shards of vla demonstrate, made where missing), "lerobot" (v2.1 or v3.0) or
    "bags" (rosbag2 folders with the contract's topics, one per episode). path: folder. mapping:
    with lerobot, YAML file that says how its features become the contract's; empty for a data set
    that carries its contract. annotations: VLA-IT file, empty for the data set's own or none;
    "truth" with simulated ones. contract: of another robot than the run's, which the model learns
    to act for too, with statistics of its own. weight: times the number of frames, its share.
    """

    path: str
    kind: str = "simulated"
    mapping: str = ""
    annotations: str = ""
    contract: str = ""
    weight: float = bounded(1.0, 0, 1e6)


@dataclass
class ConversationData:
    """Images with questions and answers.

    kind: "scenes" (simulated ones of vla scenes, made where missing) or "llava" (a JSON file in
    LLaVA's format). path: folder or file. images: folder of its images. weight: its share.
    """

    path: str
    kind: str = "llava"
    images: str = ""
    weight: float = bounded(1.0, 0, 1e6)


@dataclass
class TrainConfig:
    """A training run.

    stage: "pretrain" trains the vision-language model on conversations; "action" the action expert,
    one LoRA expert and the action queries, on robot data; "instruct" two LoRA experts, their gate
    and the queries, on annotated robot data and conversations in turn, through the action expert,
    which is frozen; "adapt" an adapter beside both halves, which are frozen (vla finetune). preset:
    of the model. lora: of its language model; with "adapt" that of the start. adapter: with
    "adapt". contract: embodiment contract, the path of a file or the name of a shipped one.
    backbone, backbone_source: kind and Hugging Face id or folder of a released vision-language
    model that takes the place of the preset's. initialize_from: checkpoint folder that a new run
    starts from, whose LoRA experts go to the experts of those names; without either the weights are
    random. robot, conversations: data. scenes, demonstrations, corrections: what is made in
    simulation. output: folder of the run.

    steps: of the optimiser. batch_size: frames, conversation_batch_size: conversations, of a step
    on one process. flow_samples: noise draws per chunk. learning_rate: peak, reached after
    warmup_steps; schedule: "constant" from there, or "cosine" to final_rate_share. text_weight: of
    the cross-entropy; naming_weight: of knowing what each image token shows; grounding_weight: of
    finding where the gripper acts next. ema_decay: of the
    averaged weights that are exported; 0 exports the weights as they are. validation_share: of each
    data set's end, kept out of training and measured every validate_every steps.
    checkpoint_activations: less memory, more time. precision: "no" or "bf16". workers: processes
    that make batches.
    """

    stage: str = "action"
    preset: str = "nano"
    lora: LoraConfig = field(default_factory=LoraConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    contract: str = "config/contracts/sim_panda.yaml"
    backbone: str = ""
    backbone_source: str = ""
    initialize_from: str = ""
    robot: tuple[RobotData, ...] = ()
    conversations: tuple[ConversationData, ...] = ()
    scenes: SceneConfig = field(default_factory=SceneConfig)
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    corrections: CorrectionConfig = field(default_factory=CorrectionConfig)
    output: str = "runs/nano"
    seed: int = 42
    steps: int = bounded(10000, 0, 1e9)
    batch_size: int = bounded(32, 0, 1e6)
    conversation_batch_size: int = bounded(0, 0, 1e6)
    prompts: PromptSampling = field(default_factory=PromptSampling)
    augmentation: Augmentation = field(default_factory=Augmentation)
    flow_samples: int = bounded(1, 1, 1000)
    learning_rate: float = bounded(5e-5, 0, 10)
    schedule: str = "constant"
    warmup_steps: int = 0
    final_rate_share: float = bounded(0.02, 0, 1)
    weight_decay: float = bounded(0.0, 0, 10)
    betas: tuple[float, float] = bounded((0.9, 0.999), 0, 0.999999)
    gradient_clip: float = bounded(1.0, 0, 1e6)
    text_weight: float = bounded(1.0, 0, 1e6)
    naming_weight: float = bounded(0.0, 0, 1e6)
    grounding_weight: float = bounded(0.0, 0, 1e6)
    ema_decay: float = bounded(0.0, 0, 0.999999)
    checkpoint_activations: bool = False
    precision: str = "no"
    workers: int = bounded(0, 0, 1024)
    validation_share: float = bounded(0.0, 0, 0.9)
    validate_every: int = bounded(500, 1, 1e9)
    validation_batches: int = 8
    save_every: int = bounded(250, 1, 1e9)
    log_every: int = bounded(10, 1, 1e9)


def read_train_config(path: str | Path) -> TrainConfig:
    """Reads a YAML file. Raises CheckpointError that names an unknown or unreadable entry."""
    values = read_yaml(path, CheckpointError)
    return from_dict(TrainConfig, {} if values is None else values, shown_path(path))


def write_train_config(config: TrainConfig, path: str | Path) -> None:
    """Writes the configuration as YAML."""
    values = _plain(asdict(config))
    Path(path).write_text(yaml.safe_dump(values, sort_keys=False))


def _plain(value):
    """Tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
