"""Checkpoints: a folder with everything that a policy needs.

config.json, model.safetensors, norm_stats.json, contract.yaml, tokenizer.json and a model card,
README.md; with several robots, those of the others in robots (vla/policies/robots.py). Large
weights are in several files, model-00001-of-00003.safetensors and so on, with
model.safetensors.index.json, as on the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tokenizers import Tokenizer

from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.contract.normalization import NormStats
from vla.core.files import checked_text, inside, read_json
from vla.core.replacing import replace_text, replacing
from vla.core.shown import brief, shown_path
from vla.core.tensors import read_shapes, read_tensors, stream_tensors
from vla.core.text import one_line
from vla.policies.base import PolicyFeatures, PolicyType
from vla.policies.config import CheckpointError, from_dict
from vla.policies.empty_weights import put, stored_tensors, without_weights
from vla.policies.loaded import Loaded, split_unread
from vla.policies.registry import DEFAULT, policy_type
from vla.policies.robots import Robot, checkpoint_folder, read_robot, write_robots
from vla.policies.tokenizer import load_tokenizer

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
MOST_INDEX = 64_000_000  # Bytes; a mixture of 15 000 experts takes 9 MB.
Module = TypeVar("Module", bound=torch.nn.Module)
MOST_PER_FILE = 5_000_000_000  # Bytes; more can't be put on many file systems and hosts.


@dataclass
class Checkpoint:
    """An opened checkpoint, for one of its robots."""

    config: Any  # of the class that its policy type names
    contract: EmbodimentContract
    stats: dict[str, NormStats]
    tokenizer: Tokenizer | None  # None for a policy that reads no words
    checkpoint_id: str  # first 12 hexadecimal digits of the weights' SHA-256
    folder: Path

    @property
    def type(self) -> PolicyType[Any, Any]:
        """The type of the policy."""
        return policy_type(self.config.TYPE)

    @property
    def features(self) -> PolicyFeatures:
        """What the policy reads and returns."""
        return self.type.features(self.config, self.contract)


def read_config(folder: str | Path) -> Any:
    """Reads config.json of a checkpoint folder. Raises CheckpointError."""
    path = Path(folder) / CONFIG
    if not path.exists():
        raise CheckpointError(
            f"{shown_path(folder)} is not a checkpoint folder (it has no {path.name}); "
            "give the folder that vla train wrote"
        )
    where, values = shown_path(path), read_json(path, CheckpointError)
    name = DEFAULT
    if isinstance(values, dict) and "type" in values:
        name = checked_text(values.pop("type"), f"{where}: type", CheckpointError, 100)
    kind = policy_type(name)
    config = from_dict(kind.config, values, where)
    kind.check_config(config, where)
    return config


def write_config(config: Any, folder: str | Path) -> None:
    """Writes config.json."""
    text = json.dumps({"type": config.TYPE} | asdict(config), indent=2)
    (Path(folder) / CONFIG).write_text(text + "\n")


def build_model(config: Any, contract: EmbodimentContract) -> torch.nn.Module:
    """A randomly initialised model for an embodiment. Raises CheckpointError."""
    where = f"policy type {config.TYPE}"
    return _built(where, lambda: policy_type(config.TYPE).build(config, contract))


def _built(where: str, make: Callable[[], Module]) -> Module:
    try:
        return make()
    except CheckpointError:
        raise
    except Exception as error:  # transformers and torch raise whatever they meet
        raise CheckpointError(
            f"{where}: no model can be built from its configuration: {one_line(error)}; take "
            "the config.json that was stored with the weights"
        ) from error


def save_checkpoint(
    folder: str | Path,
    config: Any,
    weights: dict[str, torch.Tensor],
    robots: list[Robot],
    tokenizer: Tokenizer | None,
    dtype: torch.dtype | None = torch.float16,
) -> None:
    """Writes a checkpoint folder; each existing file is replaced atomically.

    weights: a model's state, or that of the first part alone where a policy has two.
    robots: that it acts for, at least one. dtype: of the stored weights; None for their own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder)
    write_robots(folder, robots)
    if tokenizer is not None:
        tokenizer.save(str(folder / TOKENIZER))
    tied = policy_type(config.TYPE).ties_embeddings(config)
    kept = {
        name: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for name, value in weights.items()
        if not (tied and name.endswith("lm_head.weight"))
    }
    _write_weights(folder, kept)


def _write_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """One file, or several with an index; files of an earlier checkpoint are deleted last."""
    shards = split_torch_state_dict_into_shards(weights, max_shard_size=MOST_PER_FILE)
    for name, tensors in shards.filename_to_tensors.items():
        with replacing(folder / name) as new:
            save_file({tensor: weights[tensor] for tensor in tensors}, new)
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        replace_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
    else:
        (folder / INDEX).unlink(missing_ok=True)
    for file in folder.glob("model*.safetensors"):
        if file.name not in shards.filename_to_tensors:
            file.unlink()


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a checkpoint's weights. Raises CheckpointError where one is missing."""
    folder = Path(folder)
    files = [folder / WEIGHTS]
    if (folder / INDEX).exists():
        path = folder / INDEX
        index, where = read_json(path, CheckpointError, MOST_INDEX), shown_path(path)
        names = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(names, dict) or not names:
            raise CheckpointError(f"{where} has no mapping 'weight_map'; copy the folder again")
        # Through brief(): a name may be any JSON value.
        unique = {brief(name, 200): name for name in names.values()}
        files = [inside(folder, unique[name], where, CheckpointError) for name in sorted(unique)]
    for file in files:
        if not file.is_file():
            raise CheckpointError(
                f"{shown_path(folder)} has no {shown_path(file.name)}; it is not a complete "
                "checkpoint, copy it again"
            )
    return files


def weights_digest(files: list[Path]) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the files in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:12]


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads everything but the weights. Raises CheckpointError, one sentence.

    folder: of a checkpoint, for its first robot, or of one of its robots.
    """
    robot_folder, folder = Path(folder), checkpoint_folder(folder)
    config = read_config(folder)
    robot = read_robot(robot_folder)
    features = policy_type(config.TYPE).features(config, robot.contract)
    try:
        for camera in features.cameras:
            robot.contract.camera(camera)
    except ContractError as error:
        raise CheckpointError(
            f"{shown_path(folder / 'config.json')} asks for a camera that is not there: {error}; "
            "take both files from one checkpoint"
        ) from error
    digest = weights_digest(weight_files(folder))
    tokenizer = load_tokenizer(folder) if features.reads_words else None
    return Checkpoint(config, robot.contract, robot.stats, tokenizer, digest, folder)


def read_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All weights by name. Raises CheckpointError for a damaged file."""
    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(checkpoint.folder):
        weights |= read_tensors(path, CheckpointError)
    return weights


def stream_weights(
    checkpoint: Checkpoint, device: str = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights by name, one after the other, see vla.core.tensors. Raises CheckpointError."""
    for path in weight_files(checkpoint.folder):
        yield from stream_tensors(path, CheckpointError, device)


def stored_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights by name, from the files' headers alone. Raises CheckpointError."""
    stored: dict[str, tuple[int, ...]] = {}
    for path in weight_files(checkpoint.folder):
        stored |= read_shapes(path, CheckpointError)
    return stored


def build_part(checkpoint: Checkpoint, make: Callable[[], Module], prefix: str = "") -> Module:
    """Builds a part of the model for load_weights; its weights' names begin with `prefix`.

    It is first sized without memory and compared with the stored weights, so that an oversized
    configuration allocates none. Its own weights have no memory, either. Raises CheckpointError.
    """
    stored, where = stored_shapes(checkpoint), shown_path(checkpoint.folder)
    if not any(name.startswith(prefix) for name in stored):
        _refuse_without_half(where, prefix)
    with torch.device("meta"):
        sized = _built(where, make)
    _require_shapes(where, prefix, sized, stored)
    with without_weights():
        return _built(where, make)


def _refuse_without_half(where: str, prefix: str) -> NoReturn:
    raise CheckpointError(
        f"{where} holds no weights of the {prefix.rstrip('.')}: a pretrained vision-language "
        "model has not learned to act; train it on robot data"
    )


def _require_shapes(
    where: str, prefix: str, module: torch.nn.Module, stored: dict[str, tuple[int, ...]]
) -> None:
    for name, value in module.state_dict().items():
        found = stored.get(prefix + name)
        if found is not None and found != tuple(value.shape):
            raise CheckpointError(
                f"{where}: {one_line(prefix + name)} has shape {brief(list(found))}, but "
                f"config.json and contract.yaml need {list(value.shape)}"
            )


def load_weights(
    checkpoint: Checkpoint,
    module: torch.nn.Module,
    prefix: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    complete: bool = True,
) -> Loaded:
    """Fills a part of the model, whose weights' names begin with `prefix`; with "" all of it.

    dtype: of its parameters from then on; None for the stored one. complete: whether weights that
    are missing or superfluous are refused. Raises CheckpointError that names those, and what is of
    another shape.
    """
    where = shown_path(checkpoint.folder / WEIGHTS)
    stored = {n: s for n, s in stored_shapes(checkpoint).items() if n.startswith(prefix)}
    if not stored:
        _refuse_without_half(where, prefix)
    _require_shapes(where, prefix, module, stored)
    own = {prefix + name: value for name, value in stored_tensors(module).items()}
    sizes = {name: math.prod(shape) for name, shape in stored.items()}
    left_over, unread = split_unread(
        {name: size for name, size in sizes.items() if name not in own},
        checkpoint.type.unread(checkpoint.config),
    )
    # One that is tied to another is stored once.
    filled = {id(value) for name, value in own.items() if name in stored}
    missing = [n for n, value in own.items() if n not in stored and id(value) not in filled]
    if complete and (missing or left_over):
        raise CheckpointError(
            f"{where} does not fit config.json: missing {brief(missing[:3], 120)}, "
            f"superfluous {brief([*left_over][:3], 120)}; copy both from one checkpoint"
        )
    for name, value in stream_weights(checkpoint, device):
        if (target := own.get(name)) is None:
            continue
        if target.is_floating_point() and not value.is_floating_point():
            raise CheckpointError(
                f"{where}: {one_line(name)} is of whole numbers, no weights; copy it again"
            )
        put(target, value.to(dtype if dtype and value.is_floating_point() else None, copy=True))
    taken = {name: size for name, size in sizes.items() if name in own}
    return Loaded(shown_path(checkpoint.folder), taken, left_over, unread)
