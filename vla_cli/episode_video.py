"""A video of the first episodes of an evaluation."""

from __future__ import annotations

from fractions import Fraction

from vla.core.shown import shown_path
from vla.core.text import one_line
from vla_cli.errors import CommandError
from vla_cli.result_files import unwritable


class VideoRecorder:
    """Writes the first minute or so of episodes. Raises CommandError."""

    FRAMES = 900

    def __init__(self, path: str, rate: float):
        """rate: frames per second."""
        import av

        self._path = path
        try:
            self._container = av.open(path, "w")
            fraction = Fraction(rate).limit_denominator(1000)
            self._stream = self._container.add_stream("libx264", rate=fraction)
        except (OSError, ValueError) as error:
            raise CommandError(
                f"cannot write a video to {shown_path(path)}: {one_line(error)}; name a file that "
                "ends in .mp4"
            ) from error
        self._stream.pix_fmt = "yuv420p"
        self._left = self.FRAMES

    def add(self, environment) -> None:
        """Adds the frames of an environment since the last call."""
        import av

        for picture in environment.render() if self._left else ():
            if self._left == self.FRAMES:
                # Of even sizes, which the pixel format needs.
                self._stream.height, self._stream.width = (n // 2 * 2 for n in picture.shape[:2])
            if self._left:
                self._left -= 1
                picture = picture[: self._stream.height, : self._stream.width]
                self._encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))

    def close(self) -> None:
        """Ends the file."""
        if self._left < self.FRAMES:
            self._encode(None)
        self._container.close()

    def _encode(self, frame) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (OSError, ValueError) as error:
            raise unwritable(self._path, error) from error
