"""The interface of a policy for nodes, evaluation, training, checkpoints and preflight.

A published system is one folder beside this file. Its `policy.py` holds one `PolicyType`, which
says what a checkpoint of that type reads and returns, and builds its parts. A policy has one part
or two. The first, a vision-language model, answers in text and acts: alone it returns action
chunks, with a second part it returns latent actions, which that part, an action head, turns into
chunks at a higher rate. The node `reasoning` runs the first part and `action_expert` the second,
each in its own process; `vla.policies.policy.Policy` runs both in one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.policies.config import AdapterConfig, CheckpointError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from vla.datasets.sample import RobotSample
    from vla.policies.checkpoint import Checkpoint
    from vla.policies.collation import CollationOptions, Collator
    from vla.policies.loaded import Loaded
    from vla.policies.parts import ActionPart, ReasoningPart

Images = dict[str, np.ndarray]  # uint8 [H, W, 3] by camera name
Roles = Mapping[str, tuple[str, ...]]  # paths in a model by role


@dataclass(frozen=True)
class Observation:
    """The input of a policy, as the contract lists it."""

    images: Images  # {} without vision, which nodes never send; see PolicyType.needs_images
    state: np.ndarray  # proprioception [S], not normalised
    stamp: float = 0.0  # when it was seen [s]; for a policy that keeps a history


@dataclass(frozen=True)
class PolicyFeatures:
    """What a policy reads and returns; known without its weights."""

    cameras: tuple[str, ...]  # names of the images that it reads
    uses_state: bool  # whether it reads proprioception
    reads_words: bool  # whether it reads the instruction, for which it needs a tokenizer
    answers: bool  # whether it answers questions
    # [queries, width] of the latent action that its first part gives; None for a policy of one
    # part, which gives chunks itself.
    latent_shape: tuple[int, int] | None
    horizon: int  # steps in a chunk
    rate: float  # steps per second [Hz]
    thinks: bool = False  # whether it can say what it is about to do
    # [tokens, width] of the learned tokens behind its chunks that a policy of one part shows
    # beside them; None for none.
    token_shape: tuple[int, int] | None = None
    window: int = 1  # observations that it acts on, the newest included
    history_step: float = 0.0  # time between two of them [s]
    # How its answers begin that say that an instruction can't be followed; () for a policy that
    # refuses none.
    refusals: tuple[str, ...] = ()

    def refuses(self, text: str | None) -> bool:
        """Whether what it said before acting means that it is not to act."""
        begins = tuple(words.lower() for words in self.refusals)
        return text is not None and text.strip().lower().startswith(begins)


class PolicyConfig(Protocol):
    """A dataclass of everything that shapes a policy's weights."""

    TYPE: ClassVar[str]  # the `type` that config.json names
    __dataclass_fields__: ClassVar[dict[str, Any]]


Config = TypeVar("Config", bound=PolicyConfig)
Model = TypeVar("Model", bound="torch.nn.Module")


class PolicyType(ABC, Generic[Config, Model]):
    """One kind of policy: how its checkpoints are read, built and split into parts."""

    config: ClassVar[type[PolicyConfig]]  # dataclass of config.json's entries
    # Which modules and parameters of its models play which role in training, by path. The roles
    # that objectives ask for are in vla.policies.roles.
    roles: ClassVar[Roles] = {}

    @property
    def name(self) -> str:
        """The `type` in config.json."""
        return self.config.TYPE

    def presets(self) -> dict[str, Config]:
        """Configurations of named sizes. Names are unique among all types."""
        return {}

    def check_config(self, config: Config, where: str) -> None:
        """Raises CheckpointError for entries that contradict each other. where: the file's name."""

    @abstractmethod
    def features(self, config: Config, contract: EmbodimentContract) -> PolicyFeatures:
        """What such a policy reads and returns on a robot."""

    @abstractmethod
    def build(self, config: Config, contract: EmbodimentContract) -> Model:
        """The whole model, randomly initialised, as it is trained and stored."""

    @abstractmethod
    def open_reasoning(
        self, checkpoint: Checkpoint, device: str, dtype: torch.dtype
    ) -> ReasoningPart:
        """The first part, or all of a policy of one part. Raises CheckpointError.

        dtype: of its weights and of what its layers compute; what goes in and out is float32.
        """

    def open_action(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> ActionPart:
        """The second part. Raises CheckpointError; never called for a policy of one part."""
        raise NotImplementedError(f"a policy of type {self.name} has one part")

    def ties_embeddings(self, config: Config) -> bool:
        """Whether weights named `lm_head.weight` are the input embedding, stored once."""
        return False

    def parameter_counts(self, model: Model) -> dict[str, int]:
        """Parameters of a model by part; together they are all of them."""
        return {name: sum(p.numel() for p in part.parameters()) for name, part in
                model.named_children()}  # fmt: skip

    def published_counts(self, model: Model, parts: dict[str, int]) -> dict[str, int]:
        """Counts as in the system's paper, where `vla info` should show them."""
        return {}

    def facts(self, config: Config) -> dict[str, object]:
        """Further entries of `vla info` for a configuration: short values by name."""
        return {}

    def needs_images(self, config: Config) -> str:
        """Why such a policy can neither act nor learn without images; empty where it can.

        Where it can, its part takes an Observation with images {}, and its collator samples with
        images {}, alone and beside others.
        """
        return f"a policy of type {self.name} is made for observations with images"

    def unread(self, config: Config) -> tuple[str, ...]:
        """What names of weights begin with that a checkpoint may hold and that nothing reads."""
        return ()

    # What training asks for.

    def vision_path(self, config: Config) -> str:
        """Path in its models of a pretrained vision encoder beside the vision-language model's.

        "" where there is none.
        """
        return ""

    def load_vision(self, model: Model, source: str) -> Loaded:
        """Fills the vision encoder at vision_path: source is a Hugging Face id, folder or file.

        Raises CheckpointError where the weights can't be read, or are of another model.
        """
        raise NotImplementedError(f"a policy of type {self.name} has no such vision encoder")

    def pads(self, config: Config) -> bool:
        """Whether robots whose states and actions have unlike sizes can share its weights."""
        return False

    def check_robot(self, config: Config, contract: EmbodimentContract) -> None:
        """Raises CheckpointError where the model has no room for a robot that it is trained for."""

    def collator(
        self, config: Config, tokenizer: Tokenizer | None, options: CollationOptions
    ) -> Collator:
        """Makes the batches that the model's `forward` takes.

        `forward(batch, flow_samples)` returns its losses by name.
        """
        raise NotImplementedError(f"a policy of type {self.name} cannot be trained")

    def corpus(
        self, config: Config, sample: RobotSample, generator: np.random.Generator
    ) -> list[str]:
        """Sentences that a frame may become, to train a tokenizer from scratch."""
        return [sample.instruction]

    def vocabulary(self, config: Config) -> int:
        """How many tokens such a tokenizer has."""
        raise NotImplementedError(f"a policy of type {self.name} learns no tokenizer")

    def with_backbone(self, config: Config, kind: str, source: str) -> Config:
        """The configuration with a released vision-language model; `source` is its id or folder.

        Raises CheckpointError where the policy has none, or that model can't be read.
        """
        raise CheckpointError(f"a policy of type {self.name} has no backbone: leave it out")

    def load_backbone(self, model: Model, source: str | None) -> Loaded:
        """Fills the vision-language model with released weights, or draws them at random for None.

        Raises CheckpointError where the weights can't be read, or do not fit.
        """
        raise CheckpointError(f"a policy of type {self.name} has no backbone: leave it out")

    def checkpoint_activations(self, model: Model) -> None:
        """Has the model recompute activations: less memory, more time."""
        raise CheckpointError(
            f"a policy of type {self.name} cannot checkpoint activations: leave it out"
        )

    @property
    def takes_adapter(self) -> bool:
        """Whether it has an insert_adapter() of its own."""
        return type(self).insert_adapter is not PolicyType.insert_adapter

    def insert_adapter(self, model: Model, config: AdapterConfig) -> None:
        """Adds a few-shot adapter to linear layers of a loaded model (`vla finetune`)."""
        raise CheckpointError(f"a policy of type {self.name} takes no adapter: train it instead")

    def start_from(self, model: Model, source: Checkpoint) -> Loaded:
        """Fills a model with those of a checkpoint's weights that it has.

        Raises CheckpointError for weights of another shape.
        """
        raise CheckpointError(f"a policy of type {self.name} starts from no other: leave it out")
