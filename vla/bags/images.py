"""Images of a bag's messages at the contract's size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vla.bags.reader import BagMessage
from vla.bags.stream_checks import StreamChecks
from vla.bags.topics import COMPRESSED_IMAGE, is_of
from vla.contract.embodiment import CameraContract
from vla.contract.image_fit import prepare_image
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.observations.messages import compressed_to_array, image_to_array, serialized_stamp


def camera_image(
    message: BagMessage, decode: Callable[[], Any], camera: CameraContract, checks: StreamChecks
) -> np.ndarray:
    """A raw or compressed image, uint8 [H, W, 3] at the contract's size.

    decode: returns the message. Raises DatasetError where it is malformed or its size has changed.
    """
    compressed = is_of(message.type_name, (COMPRESSED_IMAGE,))
    try:
        pixels = (compressed_to_array if compressed else image_to_array)(decode())
        checks.size(message.topic, serialized_stamp(message.data), pixels)
        return prepare_image(pixels, camera)
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"malformed image on '{message.topic}': {error}") from error
    except (AttributeError, TypeError) as error:
        raise defined_otherwise(message, error) from error


def defined_otherwise(message: BagMessage, error: Exception) -> DatasetError:
    """What is wrong where a message lacks what its type has."""
    return DatasetError(
        f"'{message.topic}': the bag defines {message.type_name} otherwise than its package does "
        f"({one_line(error)}): record it with the standard message"
    )
