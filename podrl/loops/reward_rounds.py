"""The rounds of a learned reward as a hook of the run loops."""

import dataclasses

from podrl.learning.reward_rounds import make_rounds
from podrl.loops.interface import Assembly, Hooks


def with_rounds(assembly: Assembly, hooks: Hooks | None) -> Hooks | None:
    """Returns the hooks with the rounds of a learned reward between updates, if the run learns its rewards.

    Raises:
        ValueError: If the hooks have another function between updates.
    """
    config = assembly.config
    if not config.rewards.is_learned:
        return hooks
    hooks = hooks or Hooks()
    if hooks.between_every:
        raise ValueError("Found a function to call between updates; expected none beside rounds of a learned reward.")
    compile_rounds, rounds = make_rounds(config, assembly.agent, assembly.spec, assembly.topology, assembly.state_shape)
    return dataclasses.replace(
        hooks, compile=compile_rounds, between_updates=rounds, between_every=config.rewards.every_updates
    )
