"""The networks that agents can ask for."""

import functools

from podrl.config.config import NetworkConfig
from podrl.networks.action_values import make_q_network
from podrl.networks.actor_critic import make_actor_critic
from podrl.networks.atoms import make_atom_network
from podrl.networks.continuous import make_policy_network, make_state_value_network, make_twin_q_network
from podrl.networks.interface import Networks
from podrl.networks.shared_encoder import make_shared_networks
from podrl.networks.world_model import make_model_network
from podrl.types import EnvSpec


def make_networks(config: NetworkConfig, spec: EnvSpec, *, layers_are_split: bool = False) -> Networks:
    """Returns the networks that agents can ask for, as `config` describes them.

    Args:
        config: The `network` section.
        spec: The spec of the environment.
        layers_are_split: Whether layers are split over devices (`topology.model_devices`).
    """
    return Networks(
        actor_critic=lambda: make_actor_critic(config, spec, layers_are_split=layers_are_split),
        q=functools.partial(make_q_network, config, spec, layers_are_split=layers_are_split),
        policy=functools.partial(make_policy_network, config, spec, layers_are_split=layers_are_split),
        twin_q=functools.partial(make_twin_q_network, config, spec, layers_are_split=layers_are_split),
        model=functools.partial(make_model_network, config, spec, layers_are_split=layers_are_split),
        atoms=functools.partial(make_atom_network, config, spec, layers_are_split=layers_are_split),
        state_value=functools.partial(make_state_value_network, config, spec, layers_are_split=layers_are_split),
        shared=functools.partial(make_shared_networks, config, spec, layers_are_split=layers_are_split),
    )
