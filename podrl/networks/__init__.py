"""Networks: the only folder that knows Flax. The rest of podrl sees `podrl.types.Network`."""

from podrl.networks.actor_critic import make_network

__all__ = ["make_network"]
