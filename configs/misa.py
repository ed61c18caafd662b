"""MISA on recorded episodes of MuJoCo's Hopper.

A data set comes first, such as that of a policy that is half trained:

python tools/tpu_launch.py --config configs/sac_hopper.py --workdir runs/hopper --config.total_env_steps=300_000
python tools/record.py --workdir runs/hopper --steps 300_000 --out runs/hopper-data
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """Returns MISA with batch, learning rates and samples of its authors, who take 1.2 million learner steps.

    Their networks have ELUs in place of ReLUs. `--config.agent.action_samples=10` is for CPUs.

    Source: Ma et al. 2022, arXiv:2210.07484; the numbers are those of their code.
    """
    config = common.make_config("misa", "Hopper-v5", 0)
    config.total_updates = 12_000
    config.data.path = "runs/hopper-data"
    config.data.batch = 256
    config.data.learner_steps = 100
    config.network.hidden_sizes = (256, 256)
    config.network.squash_actions = True
    config.network.action_scale = "observed"
    config.agent.name = "misa"
    config.evaluate.every_updates = 1_000
    config.evaluate.greedy = True
    config.log.every_updates = 50
    return config
