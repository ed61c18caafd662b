"""How scores of a suite are made: facts of each game's source, found out in a process of its own.

Sources of JAX environments start JAX's backend when they are imported. The process that conducts a suite must not: it
starts the runs by forks, and on an accelerator it would hold the devices that they need.
"""

from collections.abc import Sequence
from typing import Any

from podrl.config.config import Config
from podrl.envs.settings import settle
from podrl.envs.source import evaluation_protocol, load_source, option_facts
from podrl.runtime.child import Child


def describe_apart(configs: Sequence[Config], score: str) -> list[dict[str, Any]]:
    """The protocol of each config, as `describe_protocol` has it, from a process of its own on the CPU.

    Raises:
        ConfigError: If a source lacks an environment, or cannot make it as its config asks for.
    """
    if not configs:
        return []
    with Child() as child:
        return child.ask(_describe_all, tuple(configs), score)


def _describe_all(configs: Sequence[Config], score: str) -> list[dict[str, Any]]:
    return [describe_protocol(config, score) for config in configs]


def describe_protocol(config: Config, score: str) -> dict[str, Any]:
    """How scores are made: the source's facts (sticky actions, action set, lives, time limit) and what is averaged.

    Raises:
        ConfigError: If the source lacks the environment, or cannot make it as the config asks for.
    """
    source = load_source(config.env.source)
    env = settle(source, config.env)
    if score == "training":
        limit = {"max_episode_steps": env.max_episode_steps} if env.max_episode_steps else {}
        facts = {**limit, **option_facts(env)}
        how = f"mean return of the newest {config.log.episodes} training episodes"
    else:
        facts = dict(evaluation_protocol(source, env).facts)
        actions = "greedy" if config.evaluate.greedy else "sampled"
        how = f"mean return of {config.evaluate.episodes} episodes, {actions} actions, with the last parameters"
    return {"score": how, "source": config.env.source, **facts}
