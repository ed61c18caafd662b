"""DrQ-v2's losses, noise and trunks on DM Control's cart-pole, from its state: no images, and no encoder."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_drq_config("drq_cartpole_swingup_state", "CartpoleSwingup-v1", total_env_steps=200_000)
    config.env.options = {"frame_skip": 2}
    config.network.hidden_sizes = (256, 256)
    config.agent.optimizer.learning_rate = 3e-4
    config.agent.critic_optimizer = {"learning_rate": 3e-4}
    return config
