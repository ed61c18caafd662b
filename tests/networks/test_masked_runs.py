"""A masked run learns what one with an infinite penalty on the logits of forbidden moves does.

With jax 0.10 they are equal bit by bit; with 0.12 XLA fuses both otherwise, and they differ by rounding.
"""

from jax import numpy as jnp
import pytest

from tests.short_runs import facts, make_config, run


def penalize(policy, params, mask):
    """In place of `podrl.ops.distributions.mask_options`."""
    return params.at[..., : policy.num_logits].add(jnp.where(mask, 0.0, -1e30))


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "impala"])
def test_a_mask_is_an_infinite_penalty(monkeypatch, agent):
    config = make_config("Game2048-v1", agent=agent, actors__unroll_length=16, total_env_steps=12 * 8 * 16)
    (outcome, masked), names = run(config), []
    assert outcome.episodes

    def penalize_and_tell(*arguments):
        names.append("called")
        return penalize(*arguments)

    monkeypatch.setattr("podrl.networks.actor_critic.mask_options", penalize_and_tell)
    _, penalized = run(config)
    assert names
    for row, expected in zip(facts(penalized), facts(masked), strict=True):
        numbers = {name: number for name, number in expected.items() if not name.startswith("fingerprint")}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-6, nan_ok=True)
