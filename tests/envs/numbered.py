"""Gymnasium environments that hold their numbers as if they were ports: no other of the same number may be open.

`folder/taken/N` is locked while number N is taken, and `folder/opened` has a line for each environment that was made. A
lock ends with its process.
"""

import fcntl
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


def hold(folder: str, port: int, note: str) -> Any:
    """Takes a number, and returns a file that holds it until it is closed; fails if it is taken."""
    assert type(port) is int
    taken = Path(folder) / "taken" / str(port)
    taken.parent.mkdir(exist_ok=True)
    held = taken.open("w")
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (Path(folder) / "opened").open("a") as file:
        os.write(file.fileno(), f"{port} {note}\n".encode())
    return held


def read_opened(folder):
    """Number and note of each environment, in the order in which they were made."""
    return [line.split(" ", 1) for line in (Path(folder) / "opened").read_text().splitlines()]


class Numbered(gymnasium.Env):
    """Episodes of three steps, whose `info` is the number."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, folder: str, port: int, name: str = "", render_mode: str | None = None):
        self.port, self.render_mode = port, render_mode
        self.held = hold(folder, port, f"{name}{' filmed' if render_mode else ''}")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == 3, False, {"number": self.port}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)

    def close(self):
        self.held.close()


class Told(gymnasium.Wrapper):
    """Adds its arguments to `info`."""

    def __init__(self, env, number: int, name: str = ""):
        super().__init__(env)
        assert type(number) is int
        self.told = {"wrapper": number, "name": int(name.removeprefix("env ") or -1)}

    def step(self, action):
        *others, info = self.env.step(action)
        return *others, info | self.told


class Held(gymnasium.Wrapper):
    """Holds a number for an environment that has none, and tells it, and each reward, in `info`."""

    def __init__(self, env, folder: str, port: int):
        super().__init__(env)
        self.port, self.held = port, hold(folder, port, "")

    def step(self, action):
        *others, info = self.env.step(action)
        return *others, info | {"number": self.port, "earned": others[1]}

    def close(self):
        self.held.close()
        super().close()
