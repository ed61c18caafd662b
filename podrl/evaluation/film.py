"""Videos of an agent at play: one environment, at a person's speed, with the score above the picture.

Pillow and, for `.mp4`, imageio-ffmpeg are imported only when a video is made.
"""

from collections.abc import Iterator
import importlib
import io
import math
from types import ModuleType
from typing import Any, cast

from etils import epath
import numpy as np

from podrl.config.config import ConfigError, check
from podrl.config.extras import install_command
from podrl.envs.source import PicturePool, Pool
from podrl.types import Timestep

VIDEO_SUFFIXES = (".gif", ".mp4")
LEAST_HEIGHT = 320  # Smaller pictures are enlarged by a whole factor.
LEAST_WIDTH = 240  # Width that the text needs.
BAR_HEIGHT = 26
FONT_SIZE = 15
GIF_FRAMES_PER_SECOND = 25  # Viewers slow down much faster GIFs.


class Film:
    """Records the first environment of a pool and writes a video file."""

    def __init__(self, path: epath.PathLike, *, steps_per_second: float, seconds: float, episodes: int) -> None:
        """Checks that the video can be written.

        Args:
            path: file to write, `.gif` or `.mp4`.
            steps_per_second: the agent's steps in a second of the video.
            seconds: longest duration of the video.
            episodes: largest number of episodes in the video.

        Raises:
            ConfigError: if `path` cannot be written, or a package for it is missing.
        """
        self._path = epath.Path(path)
        check(
            self._path.suffix in VIDEO_SUFFIXES,
            f"--video={path}: {self._path.suffix or 'no ending'!r} is not known. Use {' or '.join(VIDEO_SUFFIXES)}.",
        )
        _load("PIL.Image")
        if self._path.suffix == ".mp4":
            _load("imageio_ffmpeg")
        self._steps_per_second = steps_per_second
        self._most_pictures = max(1, round(seconds * steps_per_second))
        self._most_episodes = episodes
        self._episode, self._step, self._score = 0, 0, 0.0
        self._pictures: list[bytes] = []  # As PNG: a minute of raw pictures can be gigabytes.

    def watch(self, pool: Pool, timestep: Timestep) -> None:
        """Records the newest timestep of a pool that has pictures.

        Raises:
            ConfigError: if its environment has none.
        """
        if timestep.first[0]:
            self._episode, self._step, self._score = self._episode + 1, 0, 0.0
        else:
            self._step, self._score = self._step + 1, self._score + float(timestep.reward[0])
        if self._episode <= self._most_episodes and len(self._pictures) < self._most_pictures:
            picture = cast(PicturePool, pool).picture(0)
            score = f"{self._score:.1f}".removesuffix(".0")
            text = f"episode {self._episode}   step {self._step}   score {score}"
            self._pictures.append(_as_png(frame(picture, text)))

    def write(self) -> float:
        """Writes the file and returns the seconds that it lasts."""
        if self._path.suffix == ".gif":
            self._write_gif()
        else:
            self._write_mp4()
        return len(self._pictures) / self._steps_per_second

    def _write_gif(self) -> None:
        every = math.ceil(self._steps_per_second / GIF_FRAMES_PER_SECOND)
        kept = self._pictures[::every]
        ends = np.round(np.arange(1, len(kept) + 1) * 100 * every / self._steps_per_second)  # In GIF's unit, 10 ms.
        durations_ms = (10 * np.diff(ends, prepend=0)).astype(int).tolist()
        first, *others = kept
        content = io.BytesIO()
        _open_png(first).save(
            content,
            format="GIF",
            save_all=True,
            append_images=map(_open_png, others),
            duration=durations_ms,
            loop=0,
        )
        self._path.write_bytes(content.getvalue())

    def _write_mp4(self) -> None:
        size = _open_png(self._pictures[0]).size
        writer = _load("imageio_ffmpeg").write_frames(
            str(self._path), size, fps=self._steps_per_second, macro_block_size=2, ffmpeg_log_level="error"
        )
        writer.send(None)
        for pixels in self._raw_pictures():
            writer.send(pixels)
        writer.close()

    def _raw_pictures(self) -> Iterator[bytes]:
        return (np.asarray(_open_png(png)).tobytes() for png in self._pictures)


def frame(picture: np.ndarray, text: str) -> np.ndarray:
    """Returns the picture [H, W, 3], enlarged for a person, below a bar with the text; both sizes are even."""
    image, draw, font = _load("PIL.Image"), _load("PIL.ImageDraw"), _load("PIL.ImageFont")
    scale = math.ceil(LEAST_HEIGHT / picture.shape[0])
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = picture.shape[0] + BAR_HEIGHT, max(picture.shape[1], LEAST_WIDTH)
    canvas = image.new("RGB", (width + width % 2, height + height % 2), (24, 24, 24))
    canvas.paste(image.fromarray(picture), ((canvas.width - picture.shape[1]) // 2, BAR_HEIGHT))
    middle = (canvas.width // 2, BAR_HEIGHT // 2)
    draw.Draw(canvas).text(middle, text, fill="white", font=font.load_default(FONT_SIZE), anchor="mm")
    return np.asarray(canvas)


def _as_png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    _load("PIL.Image").fromarray(pixels).save(content, format="PNG", compress_level=1)
    return content.getvalue()


def _open_png(png: bytes) -> Any:
    return _load("PIL.Image").open(io.BytesIO(png))


def _load(module: str) -> ModuleType:
    """Imports a module that only videos need."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"Videos need two more packages: {install_command('video')}.") from None
