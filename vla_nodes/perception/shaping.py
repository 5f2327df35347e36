"""Images of a camera as its contract has them, and the error of input that has no observation."""

from __future__ import annotations

from sensor_msgs.msg import CompressedImage, Image

from vla.contract.embodiment import CameraContract
from vla.contract.image_fit import prepare_image
from vla.observations.messages import compressed_to_array
from vla_nodes.core.conversions import array_to_image
from vla_nodes.core.images import image_pixels


class BadInput(ValueError):
    """Input that cannot become an observation. reason: the word that diagnostics count it by."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


def shape_image(camera: CameraContract, message: Image | CompressedImage) -> Image:
    """The image, cropped and resized for the contract. Raises BadInput for a malformed one."""
    try:
        if isinstance(message, CompressedImage):
            pixels = compressed_to_array(message)
        else:
            pixels = image_pixels(message)
    except ValueError as error:
        raise BadInput(
            "bad_image", f"malformed image of camera '{camera.name}': {error}"
        ) from error
    shaped = prepare_image(pixels, camera)
    if shaped is pixels and _is_plain_rgb(message):
        return message
    return array_to_image(shaped, message.header.stamp, message.header.frame_id)


def _is_plain_rgb(message: Image | CompressedImage) -> bool:
    return (
        isinstance(message, Image)
        and message.encoding == "rgb8"
        and message.step == 3 * message.width
    )
