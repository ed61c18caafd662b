"""Hostile values for every key of a config, and what podrl makes of each; see `tests.config.test_config_values`."""

from collections.abc import Iterator, Mapping
import dataclasses
import decimal
import functools
import json
import math
import operator
import random
import time
import typing
from typing import Any

import ml_collections
import numpy as np

from configs import common
from podrl.agents.parts.loading import load_agent
from podrl.assembly import resolve
from podrl.config import commandline
from podrl.config.config import Config, ConfigError

NUMBERS: tuple[Any, ...] = (
    *(-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, 10**5000, -(2**63)),
    *(0.0, -0.0, 0.5, 1.5, -1.0, -1e-9, 5e-324, 1e-320, 1e-30, 1e18, 1e30, 1e308, math.inf, -math.inf, math.nan),
    *(np.float32(1), np.float64(1e30), np.float64(math.nan), np.int64(3), np.bool_(True), decimal.Decimal(1), 1j),
)
TEXTS = (
    *("", " ", "1", "none", "auto", "a" * 100_000, "é\u202e", "\ud800", "\x00", "../x", "[*]", "a\nb", "a\x1b[2J"),
    "\\",
)
OTHERS: tuple[Any, ...] = (
    *(True, False, None, b"x", object(), len, {"a": 1}, {1: 2}, {}, set(), range(3), [], [[1]], np.zeros(2)),
    *((), (0,), (-1,), (2**31,), (10**30,), (math.inf,), (math.nan,), (None,), (True,), (1.5,), ("",), ("a",)),
    *(("a\x00",), ("(: -",), (("a",),), (1,) * 10_000, ml_collections.config_dict.required_placeholder(int)),
)
WORDS = (
    *("", " ", "-1", "0", "-0.0", "0x10", "1_0", "\uff11", "\u0663", "1.5", "1e-320", "1e18", "1e30", "1e400"),
    *("2147483648", "9223372036854775808", "9" * 5_000, "inf", "-inf", "nan", "None", "True", "false", "yes"),
    *("2**31", "[]", "[", "{}", "{'a': 1}", "()", "(0,)", "(-1,)", "(1e30,)", "(inf,)", "1,2", "'", '"', "\\"),
    *("%s", "=", "--", "a" * 10_000, "\x00", "\ud800", "é", "../..", "a\nb", "__import__('os')", "(" * 500),
    *("lambda: 0", "b'x'", "1j", "...", "{1: 2}"),
)
LINE = 1_000  # Characters of a complaint at the most.


@dataclasses.dataclass(frozen=True)
class Case:
    """One value of one key: as a config file has it, or as text of the command line.

    Attributes:
        agent: whose config it is.
        key: dotted.
        value: hostile, or not.
        typed: whether it comes by the command line.
    """

    agent: str
    key: str
    value: Any
    typed: bool

    def __str__(self) -> str:
        try:
            text = repr(self.value)
        except ValueError:  # More digits than Python prints.
            text = "10**5000"
        return f"{'--config.' if self.typed else ''}{self.key}={text[:80]} ({self.agent})"


def all_cases() -> Iterator[Case]:
    """Every key of both agents' configs with every hostile value, by both ways."""
    for agent in ("impala", "ppo"):
        for key in keys(agent):
            if agent == "impala" or key.startswith("agent"):
                yield from (Case(agent, key, value, False) for value in (*NUMBERS, *TEXTS, *OTHERS))
                yield from (Case(agent, key, word, True) for word in WORDS)


def sample(count: int, seed: int) -> list[Case]:
    """Some of all cases."""
    return random.Random(seed).sample(list(all_cases()), count)


def keys(agent: str) -> list[str]:
    """The dotted keys of a config, sections included."""

    def walk(section: type, prefix: str) -> Iterator[str]:
        hints = typing.get_type_hints(section) | {"agent": load_agent(agent).AgentConfig}
        for field in dataclasses.fields(section):
            hint = hints[field.name] if section is Config or field.name != "agent" else field.type
            yield prefix + field.name
            if dataclasses.is_dataclass(hint):
                yield from walk(typing.cast(type, hint), f"{prefix}{field.name}.")

    return list(walk(Config, ""))


MAY_BE_NEGATIVE = ("rewards.skip_below", "agent.min_value", "agent.max_value")  # In units of the return.
MAY_BE_EMPTY = ("data.path", "record.path")


def base(agent: str) -> ml_collections.ConfigDict:
    """A config that is right, with every key."""
    config = common.make_config("test", "Catch-v0", total_env_steps=1_000)
    config.agent = dataclasses.asdict(load_agent(agent).AgentConfig())
    config.actors.num_envs = 8
    config.actors.unroll_length = 4
    return config


def with_value(case: Case) -> ml_collections.ConfigDict:
    """The right config with the case's value."""
    config = base(case.agent)
    if case.typed:
        config.agent = {"name": case.agent, "optimizer": {}}  # As files leave most keys to the agent's own defaults.
        return commandline.override(config, [f"--config.{case.key}={case.value}"])
    return replace(config, {case.key: case.value})


def replace(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config with other values, by dotted key, of whatever type."""
    plain = config.to_dict()
    for key, value in values.items():
        *sections, name = key.split(".")
        functools.reduce(operator.getitem, sections, plain)[name] = value
    return ml_collections.ConfigDict(plain)


def fault(case: Case) -> str:
    """What is wrong with podrl's answer to a case; empty if nothing: it is refused in a line, or accepted and sane."""
    begin_s = time.perf_counter()
    try:
        resolved = resolve(with_value(case))
    except ConfigError as error:
        lines = str(error)
        wrong = not lines or len(lines) > LINE or any(not char.isprintable() for char in lines)
        return f"said {lines[:300]!r}, {len(lines)} characters" if wrong else _slow(begin_s)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is no answer)
        return f"{type(error).__name__}: {str(error)[:200]}"
    return _strange(case.key, resolved) or _slow(begin_s)


def _slow(begin_s: float) -> str:
    seconds = time.perf_counter() - begin_s
    return f"took {seconds:.1f} s" if seconds > 10 else ""


def _strange(key: str, config: Config) -> str:
    """What of an accepted config is not sane, by rules that know no key but one."""
    try:
        json.dumps(dataclasses.asdict(config), allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"accepted what JSON does not take: {error}"
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    most = 2e15 if key == "total_env_steps" else 2.0**31
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, bool) or dataclasses.is_dataclass(item) or isinstance(item, dict):
            continue
        size = abs(item) if key in MAY_BE_NEGATIVE and isinstance(item, int | float) else item
        if isinstance(item, int | float) and not (item == 0 or 1e-20 <= size <= most):
            return f"accepted {item!r}"
        if key in MAY_BE_EMPTY and item == "":
            continue
        if isinstance(item, str) and not (item.strip() and item.isprintable() and len(item) <= 1_000):
            return f"accepted {item[:50]!r}, {len(item)} characters"
    return ""
