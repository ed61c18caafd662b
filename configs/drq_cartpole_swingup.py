"""DrQ-v2 on DM Control's cart-pole, swung up from pixels: three frames of 84x84, and two steps an action.

EnvPool draws the frames by OpenGL, which must be loaded before it: start the command with LD_PRELOAD=libGL.so.1
MUJOCO_GL=egl (docs/reference/environment_notes.md). An update has 32 env steps and 16 learner steps, one for two env
steps as the authors have it, of 16 environments at once instead of one.

Source: Yarats et al. 2021, arXiv:2107.09645, appendix B.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_drq_config("drq_cartpole_swingup", "CartpoleSwingup-v1", total_env_steps=500_000)
    config.env.options = {"from_pixels": True, "frame_skip": 2}
    config.network.encoder = "drq"
    config.network.frame_stack = 3
    config.replay.capacity = 500_000
    return config
