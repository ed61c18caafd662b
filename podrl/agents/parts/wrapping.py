"""What stands around every agent of a run: the scale of what it learns from, and the rewards that it learns from."""

from typing import Any

from podrl.agents.parts.interface import Agent
from podrl.agents.parts.learned_rewards import learn_rewards
from podrl.agents.parts.normalization import normalize_observations, normalize_rewards
from podrl.agents.parts.preferences import make_preferences
from podrl.types import EnvSpec


def wrap_agent(agent: Agent, config: Any, spec: EnvSpec) -> Agent:
    """Returns the agent with what its run's config puts around it.

    Args:
        agent: The algorithm.
        config: The run's `podrl.config.config.Config`.
        spec: The environment.

    Raises:
        ConfigError: If the environment's observations have no scale, or rewards cannot be learned of them.
    """
    if config.network.normalize_rewards:
        agent = normalize_rewards(agent, config.agent.discount)
    if config.network.normalize_observations:
        agent = normalize_observations(agent, spec)
    return learn_rewards(agent, make_preferences(config.rewards, spec)) if config.rewards.is_learned else agent
