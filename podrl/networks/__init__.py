"""Networks: the only folder that knows Flax. The rest of podrl sees `podrl.types.Network`."""
