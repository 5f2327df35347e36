"""Images of the cameras for the page, with the predicted path where the camera is calibrated."""

from __future__ import annotations

import io

import numpy as np
from geometry_msgs.msg import PoseStamped
from PIL import Image as PillowImage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vla_ros.msg import ActionChunk as ActionChunkMessage

from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.contract.image_fit import resize_image
from vla.control.chunk import ActionChunk
from vla.datasets.camera_view import CameraView
from vla.observations.messages import compressed_to_array, pose_to_arrays
from vla.page.overlay import path_in_view, with_intrinsics
from vla.page.viewers import CameraPicture
from vla_nodes.core import qos
from vla_nodes.core.chunk_message import chunk_from_message
from vla_nodes.core.conversions import stamp_to_seconds
from vla_nodes.core.images import image_pixels
from vla_nodes.core.polled import PolledSubscription

JPEG_START = b"\xff\xd8"


class Pictures:
    """Takes images when they are asked for, so that nothing is unpacked while nobody watches."""

    def __init__(
        self,
        node,
        contract: EmbodimentContract,
        mounted: dict[str, CameraView],
        compressed: bool,
        width: int,
        quality: int,
    ):
        """Subscribes.

        mounted: where cameras are, without intrinsics. width [px], quality: of the JPEGs.
        """
        self._node, self._contract, self._mounted = node, contract, mounted
        self._width, self._quality = width, quality
        self._images: dict[str, PolledSubscription] = {}
        self._infos: dict[str, PolledSubscription] = {}
        for camera in contract.cameras:
            kind, end = (CompressedImage, "/compressed") if compressed else (Image, "")
            self._images[camera.name] = PolledSubscription(
                node, kind, camera.topic + end, qos.NEWEST_SENSOR
            )
            if camera.name in mounted:
                folder, slash, _ = camera.topic.rpartition("/")
                self._infos[camera.name] = PolledSubscription(
                    node, CameraInfo, f"{folder}{slash}camera_info", qos.NEWEST_SENSOR
                )
        self._poses = PolledSubscription(
            node, PoseStamped, contract.end_effector_pose_topic, qos.NEWEST_SENSOR
        )
        # Best effort, so that a page that dies can't disturb the one who sends them.
        self._chunks = PolledSubscription(node, ActionChunkMessage, "vla/action_chunk", qos.LATEST)
        self._views: dict[str, tuple[CameraView, int]] = {}  # with the height of the images
        self._tool: tuple[np.ndarray, np.ndarray] | None = None
        self._chunk: ActionChunk | None = None

    def take(self, camera: str, instruction_id: int) -> CameraPicture | None:
        """The newest image of a camera; None where there is no new one, or it is malformed.

        instruction_id: of the instruction whose path is drawn; 0 while the arm follows none.
        """
        message = self._images[camera].take()
        if message is None:
            return None
        try:
            jpeg, width, height = self._encoded(message)
        except ValueError as error:
            self._node.diagnostics.report("bad_image", f"image of camera '{camera}': {error}")
            return None
        self._update(camera)
        stamp = stamp_to_seconds(message.header.stamp)
        view, view_height = self._views.get(camera, (None, 0))
        known = self._chunk
        chunk = known if known is not None and known.instruction_id == instruction_id else None
        path = path_in_view(chunk, view, self._tool, stamp, view_height)
        return CameraPicture(camera, jpeg, width, height, stamp, path, view is not None)

    def _encoded(self, message) -> tuple[bytes, int, int]:
        """An image as JPEG of at most the width, with its size; ValueError where malformed."""
        if isinstance(message, CompressedImage):
            data = bytes(message.data)
            pixels = compressed_to_array(message)
            if data.startswith(JPEG_START) and pixels.shape[1] <= self._width:
                return data, pixels.shape[1], pixels.shape[0]
        else:
            pixels = image_pixels(message)
        height, width = pixels.shape[:2]
        if width > self._width:
            height = max(1, round(height * self._width / width))
            pixels = resize_image(pixels, self._width, height, PillowImage.Resampling.BOX)
        stream = io.BytesIO()
        PillowImage.fromarray(pixels).save(stream, "JPEG", quality=self._quality)
        return stream.getvalue(), pixels.shape[1], pixels.shape[0]

    def _update(self, camera: str) -> None:
        """Takes what the path needs."""
        pose = self._poses.take()
        if pose is not None:
            try:
                self._tool = pose_to_arrays(pose.pose)
            except ValueError:
                self._tool = None
        chunk = self._chunks.take()
        if chunk is not None:
            try:
                self._chunk = chunk_from_message(chunk, self._contract)
            except ContractError:
                # The controller refuses it, and says why.
                self._chunk = None
        info = self._infos[camera].take() if camera in self._infos else None
        if info is not None and info.width and info.k[0] > 0.0:
            matrix = np.reshape(info.k, (3, 3))
            view = with_intrinsics(self._mounted[camera], matrix, info.width)
            self._views[camera] = (view, info.height)
