"""The JSON file of a run of RoboVLMs' authors, as far as it shapes a policy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from vla.core.configuration import Dataclass
from vla.core.files import read_json
from vla.core.shown import brief, shown_path
from vla.policies.config import ChatFormat, CheckpointError, bounded, from_dict

TRUNKS = {"FCDecoder": "fc", "LSTMDecoder": "lstm", "GPTDecoder": "gpt"}

# The words around an instruction, by the name of their model class. Images stand behind the first
# token, the hand's before the others.
_KINDS = {
    "RoboKosMos": (
        "kosmos2",
        ChatFormat(
            user="<s>",
            question="<grounding>An image of a robot ",
            user_end="</s>",
            assistant="",
            end="</s>",
            plain_words=False,
        ),
    ),
    "RoboPaligemma": (
        "paligemma",
        ChatFormat(user="<eos>", user_end="\n", assistant="", end="<eos>", plain_words=False),
    ),
}


@dataclass
class ReleasedHead:
    """Their entries under act_head."""

    type: str = "LSTMDecoder"
    action_space: str = "continuous"  # or discrete, or down_sample: pooled tokens
    history_type: str = "post"  # policy head; pre: interleaved
    token_source: str = "all"  # of pooled tokens
    hidden_size: int = bounded(1024, 1, 65_536)
    latent: int = bounded(1, 1, 64)
    n_bin: int = bounded(256, 2, 4096)
    fill_zero: bool = False


@dataclass
class Released:
    """Their entries that shape a policy; the others are about training."""

    robovlm_name: str
    window_size: int = bounded(1, 1, 128)
    fwd_pred_next_n: int = bounded(1, 1, 1024)
    arm_gripper_loss_ratio: float = bounded(0.01, 0, 1e6)
    image_size: int = bounded(224, 1, 4096)
    use_hand_rgb: bool = False
    norm_action: bool = False
    norm_min: float = bounded(-1.0, -1e6, 1e6)
    norm_max: float = bounded(1.0, -1e6, 1e6)
    use_mu_law: bool = False
    regular_action: bool = False
    tcp_rel: bool = False
    act_head: ReleasedHead = field(default_factory=ReleasedHead)


def read_released_config(path: str | Path) -> Released:
    """Their JSON file. Raises CheckpointError that names an entry that can't be had here."""
    values, where = read_json(path, CheckpointError), shown_path(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is no mapping; give the configuration of the run")
    known = _known(Released, values)
    if isinstance(known.get("act_head"), dict):
        known["act_head"] = _known(ReleasedHead, known["act_head"])
    elif "act_head" not in known:
        raise CheckpointError(
            f"{where} has no act_head; give the configuration that was stored with the run, which "
            "holds its parents' entries"
        )
    found = from_dict(Released, known, where)
    head = found.act_head
    for what, name, value, wanted in (
        ("robovlm_name", "is", found.robovlm_name, tuple(_KINDS)),
        ("act_head: type", "is", head.type, (*TRUNKS, "DiscreteDecoder")),
        ("act_head: history_type", "is", head.history_type, ("post", "pre")),
        ("act_head: action_space", "is", head.action_space,
         ("continuous", "down_sample", "discrete")),
        # Their pooled text leaves out its first and last token, ours does not.
        ("act_head: token_source", "is", head.token_source, ("all", "vision")),
        ("act_head: fill_zero", "is", head.fill_zero, (False,)),
        ("use_mu_law", "is", found.use_mu_law, (False,)),
        ("regular_action", "is", found.regular_action, (False,)),
        ("tcp_rel", "is", found.tcp_rel, (False,)),
    ):  # fmt: skip
        if value not in wanted:
            choices = ", ".join(map(str, wanted))
            raise CheckpointError(
                f"{where}: {what} {name} {brief(value)}, which is not converted; it must be one "
                f"of: {choices}"
            )
    return found


def _known(kind: type[Dataclass], values: dict) -> dict:
    """The entries that a dataclass has; null counts as absent."""
    wanted = {entry.name for entry in fields(kind)}
    return {name: value for name, value in values.items() if name in wanted and value is not None}


def kind_of(released: Released) -> str:
    """The kind of its backbone."""
    return _KINDS[released.robovlm_name][0]


def words_of(released: Released) -> ChatFormat:
    """The words around an instruction."""
    return _KINDS[released.robovlm_name][1]
