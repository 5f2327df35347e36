"""Images that cameras took at about the same time, matched by `message_filters`."""

from __future__ import annotations

from collections.abc import Sequence

from sensor_msgs.msg import CompressedImage, Image

from vla.observations.messages import stamp_to_nanoseconds
from vla.observations.resampling import LARGEST_DISORDER

# Images of a camera that wait for those of the others.
QUEUE = 10


class ImageMatcher:
    """Sets of one image per camera whose stamps differ by less than the slop."""

    def __init__(self, cameras: Sequence[str], slop: float):
        """slop: [s]. Raises ValueError where message_filters is not installed."""
        try:
            import message_filters
        except ImportError as error:
            raise ValueError(
                f"synchronization 'approximate_time' needs message_filters ({error}): install "
                "ros-jazzy-message-filters, or choose 'as_of'"
            ) from error
        self._filters = {camera: message_filters.SimpleFilter() for camera in cameras}
        self._synchronizer = message_filters.ApproximateTimeSynchronizer(
            list(self._filters.values()), QUEUE, slop
        )
        self._synchronizer.registerCallback(self._on_match)
        self._newest: dict[str, int] = {}
        self._matches: list[dict[str, Image | CompressedImage]] = []

    def add(
        self, camera: str, message: Image | CompressedImage
    ) -> list[dict[str, Image | CompressedImage]]:
        """Takes an image; returns the sets that it completes, by camera."""
        stamp = stamp_to_nanoseconds(message.header.stamp)
        if stamp < self._newest.get(camera, stamp) - LARGEST_DISORDER:
            # The clock was set back. Full queues drop their oldest stamps, so images of before
            # would push out every new one.
            for queue in self._synchronizer.queues:
                queue.clear()
            self._newest.clear()
        self._newest[camera] = max(stamp, self._newest.get(camera, stamp))
        self._filters[camera].signalMessage(message)
        matches, self._matches = self._matches, []
        return matches

    def _on_match(self, *images: Image | CompressedImage) -> None:
        # The synchronizer holds its lock here, and keeps it where a callback raises.
        self._matches.append(dict(zip(self._filters, images, strict=True)))
