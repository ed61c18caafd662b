"""Environments that break Gymnasium's interface, end the process, or misbehave when they are made or closed."""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time

import gymnasium
from gymnasium import spaces
import numpy as np


class Faulty(gymnasium.Env):
    """Episodes of two steps; the fault `how` comes in the step, or with `when='reset'` the reset, of that number."""

    def __init__(self, how: str = "", at: int = 3, when: str = "step"):
        self.observation_space = spaces.Box(0, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._how, self._at, self._when = how, at, when
        self._counts = {"reset": 0, "step": 0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._fail("reset", (np.zeros(2, np.float32), {}))

    def step(self, action):
        self._steps += 1
        return self._fail("step", (np.zeros(2, np.float32), 1.0, self._steps == 2, False, {}))

    def _fail(self, when, result):
        self._counts[when] += 1
        if not self._how or when != self._when or self._counts[when] != self._at:
            return result
        observation, *rest = result
        match self._how:
            case "none":
                return observation, None, *rest[1:]
            case "array":
                return observation, np.array([1.0]), *rest[1:]
            case "complex":
                return observation, 1j, *rest[1:]
            case "text":
                return observation, "1.0", *rest[1:]
            case "short":
                return result[:-1]
            case "nothing":
                return None
            case "wide":
                return np.zeros(3, np.float32), *rest
            case "scalar":
                return np.float32(0), *rest
            case "words":
                return "ab", *rest
            case "end":
                return observation, 1.0, None, False, {}
            case "stop":
                raise StopIteration
            case "generator":
                raise GeneratorExit
            case "exit":
                sys.exit()
            case "window":
                sys.exit("window closed")
            case "interrupt":
                raise KeyboardInterrupt
            case "os_exit":
                os._exit(0)
            case "hang":
                time.sleep(3600)
            case "crash":
                ctypes.string_at(0)
        raise AssertionError(self._how)


class NeedsLoop(Faulty):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.get_event_loop()


class NeedsAlarm(Faulty):
    def __init__(self):
        super().__init__()
        signal.signal(signal.SIGALRM, lambda *_: None)


class CloseRaises(Faulty):
    def close(self):
        raise RuntimeError("display was closed already")


class CloseHangs(Faulty):
    def close(self):
        if self._counts["step"] > 3:
            time.sleep(3600)


class Hangs(Faulty):
    def __init__(self):
        time.sleep(3600)


class HangsWhenEvaluated(Faulty):
    """Ends no episode by itself; the second instance, which is for evaluation, hangs in its first reset."""

    made = 0

    def __init__(self):
        super().__init__()
        type(self).made += 1

    def reset(self, *, seed=None, options=None):
        if self.made > 1:
            time.sleep(3600)
        return super().reset(seed=seed)


class Rude(CloseHangs):
    """Takes signals for itself where it can, prints, and hangs when it is closed."""

    def __init__(self):
        super().__init__()
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(signum, lambda *_: None)

    def step(self, action):
        sys.stdout.write("step!\n")
        sys.stdout.flush()
        return super().step(action)
