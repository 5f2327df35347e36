"""What a robot asks for, read from a message and checked.

A message is a dictionary. openpi's clients send one observation: `images` (uint8 [H, W, 3], or the
bytes of a JPEG, by camera), `state` [S] and `prompt`. docs/serving.md lists what else it may have.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vla.contract.embodiment import EmbodimentContract
from vla.contract.image_fit import prepare_image
from vla.control.committed import CommittedActions
from vla.control.session import LONGEST_INSTRUCTION
from vla.core.files import checked_entries, checked_number, checked_text
from vla.core.shown import brief, listed
from vla.core.text import TextError, check_text, one_line
from vla.policies.base import Images, PolicyFeatures

INFER, ACT, CHUNK, ASK, OBSERVE = "infer", "act", "chunk", "ask", "observe"
KINDS = (INFER, ACT, CHUNK, ASK, OBSERVE)
MOST_PIXELS = 50_000_000  # of an image
JPEG_QUALITY = 90


class RequestError(ValueError):
    """A request that can't be served, in one sentence for the client."""


@dataclass(frozen=True)
class Request:
    """One request of a robot."""

    # infer: an action chunk of the whole policy. act: a latent action, or the chunk of a policy of
    # one part. chunk: one from a latent action. ask: an answer. observe: nothing, only see.
    kind: str
    images: Images
    state: np.ndarray
    prompt: str  # the instruction, or the question
    stamp: float  # of the observation [s]
    think: bool = False  # say first what to do, and act on that
    text: str | None = None  # that was said before, to act on
    seed: int | None = None  # of random draws; None goes on with the robot's own
    reset: bool = False  # a new episode begins
    adapter: str = ""  # name of one that the server holds; "" for the checkpoint as it is
    latent: np.ndarray | None = None  # for chunk
    before: CommittedActions | None = None  # for chunk: what it goes on from
    max_guidance: float | None = None  # bound of the guidance to that


ENTRIES = (
    "do", "images", "state", "prompt", "stamp", "think", "text", "seed", "reset", "adapter",
    "latent", "before", "committed", "max_guidance",
)  # fmt: skip


def read_request(
    values: Any, contract: EmbodimentContract, features: PolicyFeatures, now: float
) -> Request:
    """The request in a message. now: the stamp of one that has none [s]. Raises RequestError."""
    values = checked_entries(values, "the request", RequestError, ENTRIES)
    kind = values.get("do", INFER)
    if kind not in KINDS:
        raise RequestError(f"do is {brief(kind)}; it takes one of {', '.join(KINDS)}")
    if kind == CHUNK and features.latent_shape is None:
        raise RequestError("this policy has one part: ask for infer or act")
    if kind == ASK and not features.answers:
        raise RequestError("this policy gives no text: it has learned from no conversations")
    think = _flag(values, "think")
    if think and not features.thinks:
        raise RequestError("this policy does not say what it will do: leave think out")
    seed, stamp = values.get("seed"), values.get("stamp", now)
    text, bound = values.get("text"), values.get("max_guidance")
    return Request(
        kind,
        _images(values.get("images", {}), contract, features),
        _state(values.get("state"), contract, kind != ASK),
        _words(values.get("prompt", ""), "prompt"),
        checked_number(stamp, "stamp", RequestError),
        think,
        None if text is None else checked_text(text, "text", RequestError),
        None if seed is None else checked_number(seed, "seed", RequestError, 0, 2**62, True),
        _flag(values, "reset"),
        _words(values.get("adapter", ""), "adapter"),
        _latent(values.get("latent"), features) if kind == CHUNK else None,
        _before(values, contract),
        None if bound is None else checked_number(bound, "max_guidance", RequestError, 0, 100),
    )


def encode_jpeg(image: np.ndarray) -> bytes:
    """An image uint8 [H, W, 3] as a JPEG, with colours at full resolution."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return content.getvalue()


def decode_jpeg(content: bytes, name: str) -> np.ndarray:
    """The image uint8 [H, W, 3] of a JPEG. name: of its camera, for errors. Raises RequestError."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                size = f"{opened.width} x {opened.height}"
                raise RequestError(f"image '{name}' has {size} pixels; make it smaller")
            return np.asarray(opened.convert("RGB"))
    except RequestError:
        raise
    except Exception as error:
        # Decoders raise anything on damaged bytes.
        raise RequestError(f"image '{name}' is no JPEG ({one_line(error)})") from None


def _images(values: Any, contract: EmbodimentContract, features: PolicyFeatures) -> Images:
    """Images by camera, at the contract's sizes."""
    if not isinstance(values, dict):
        raise RequestError(f"images must be a dictionary by camera, got {brief(values)}")
    if missing := [name for name in features.cameras if name not in values]:
        known = listed(map(str, values)) or "none"
        raise RequestError(f"no image of camera '{missing[0]}'; got: {known}")
    images = {}
    for name in features.cameras:
        image = values[name]
        if isinstance(image, bytes):
            image = decode_jpeg(image, name)
        if not isinstance(image, np.ndarray):
            raise RequestError(f"image '{name}' is {brief(image)}; send an array or a JPEG")
        try:
            images[name] = prepare_image(image, contract.camera(name))
        except ValueError as error:
            raise RequestError(str(error)) from None
    return images


def _state(value: Any, contract: EmbodimentContract, is_needed: bool) -> np.ndarray:
    """The state [S]; zeros where it is left out and not needed."""
    size = len(contract.state_names)
    if value is None and not is_needed:
        return np.zeros(size)
    return _numbers(value, (size,), f"state ({listed(contract.state_names)})")


def _latent(value: Any, features: PolicyFeatures) -> np.ndarray:
    assert features.latent_shape is not None
    return _numbers(value, features.latent_shape, "latent").astype(np.float32)


def _before(values: dict, contract: EmbodimentContract) -> CommittedActions | None:
    """The chunk that a new one goes on from."""
    if values.get("before") is None:
        return None
    actions = values["before"]
    covered = len(actions) if isinstance(actions, (np.ndarray, list)) else 0
    if not 1 <= covered <= contract.horizon:
        raise RequestError(f"before must have 1 to {contract.horizon} steps, got {covered}")
    actions = _numbers(actions, (covered, len(contract.action_names)), "before")
    committed = values.get("committed")
    committed = checked_number(committed, "committed", RequestError, 0, covered, True)
    return CommittedActions(actions, committed)


def _numbers(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Finite numbers float64 of a shape."""
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        given = value.shape if isinstance(value, np.ndarray) else brief(value)
        raise RequestError(f"{what} must be {list(shape)} finite numbers, got {given}")
    return numbers


def _words(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{what} must be text, got {brief(value)}")
    try:
        return check_text(value, what, LONGEST_INSTRUCTION)
    except TextError as error:
        raise RequestError(str(error)) from None


def _flag(values: dict, name: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false, got {brief(value)}")
    return value
