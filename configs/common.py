"""What configs share: podrl's own sections with their defaults, continuous control, and options of environments."""

import ml_collections

from podrl.config.config_dict import default_env, default_sections


def make_config(name: str, env_id: str, total_env_steps: int) -> ml_collections.ConfigDict:
    """Returns a config that lacks only `agent.name`; keys that `agent` leaves out have the agent's own defaults."""
    return ml_collections.ConfigDict(
        {
            "name": name,
            "seed": 1,
            "total_env_steps": total_env_steps,
            "total_updates": 0,
            "smoke": False,
            "determinism": "exact",
            "on_nonfinite": "stop",
            "watchdog_s": 300.0,
            "agent": {"optimizer": {}},
            "env": default_env() | {"id": env_id},
            **default_sections(),
        }
    )


def make_control_config(name: str, env_id: str, total_env_steps: int) -> ml_collections.ConfigDict:
    """Returns PPO for continuous control: hyper-parameters and network of CleanRL's `ppo_continuous_action`.

    A batch has 2,048 steps, as there, but of 16 environments instead of one.

    Source: Huang et al. 2022, CleanRL, JMLR 23(274); Andrychowicz et al. 2021, arXiv:2006.05990, on which of them
    matter.
    """
    config = make_config(name, env_id, total_env_steps)
    config.actors.num_envs = 16
    config.actors.unroll_length = 128
    config.actors.env_threads = 1
    config.network.hidden_sizes = (64, 64)
    config.network.activation = "tanh"
    config.network.separate_value = True
    config.network.normalize_observations = True
    config.network.normalize_rewards = True
    config.agent.name = "ppo"
    config.agent.optimizer.learning_rate = 3e-4
    config.agent.entropy_cost = 0.0
    config.agent.value_clip = 0.2
    config.agent.epochs = 10
    config.agent.minibatches = 32
    config.agent.shuffle = "time"
    config.log.every_updates = 10
    return config


def make_replayed_control_config(
    name: str, env_id: str, total_env_steps: int, *, agent: str
) -> ml_collections.ConfigDict:
    """Returns SAC or TD3 for continuous control: networks, batch and ring of their authors.

    Each env step has one gradient step. An update has 64 of both, of 16 environments at once, instead of one.

    Args:
        name: The config's name.
        env_id: The environment.
        total_env_steps: Length of the run.
        agent: `sac` or `td3`. Learning begins where its first actions, which are uniform, end.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, table 1; Fujimoto et al. 2018, arXiv:1802.09477, appendix C.
    """
    config = make_config(name, env_id, total_env_steps)
    config.actors.num_envs = 16
    config.actors.unroll_length = 4
    config.actors.env_threads = 1
    config.replay.capacity = 1_000_000
    config.replay.batch = 256
    config.replay.ratio = 256.0
    config.replay.min_steps = 10_000
    config.replay.priority_exponent = 0.0
    config.network.hidden_sizes = (256, 256)
    config.network.squash_actions = True
    config.network.action_scale = "observed"
    config.agent.name = agent
    config.evaluate.greedy = True
    config.log.every_updates = 50
    return config


def make_drq_config(name: str, env_id: str, total_env_steps: int) -> ml_collections.ConfigDict:
    """Returns DrQ-v2 for continuous control: layers, batch and ring of its authors, without an encoder.

    Two env steps have one gradient step. An update has 32 of the first, of 16 environments at once, instead of two.

    Source: Yarats et al. 2021, arXiv:2107.09645, appendix B.
    """
    config = make_config(name, env_id, total_env_steps)
    config.actors.num_envs = 16
    config.actors.unroll_length = 2
    config.actors.env_threads = 1
    config.replay.capacity = 1_000_000
    config.replay.batch = 256
    config.replay.ratio = 128.0
    config.replay.min_steps = 2_000
    config.replay.priority_exponent = 0.0
    config.network.hidden_sizes = (1024, 1024)
    config.agent.name = "drq"
    config.evaluate.greedy = True
    config.log.every_updates = 100
    return config


def make_offline_control_config(name: str, *, agent: str) -> ml_collections.ConfigDict:
    """Returns an agent that learns continuous control from a data set, on Hopper: a million learner steps.

    An update has 100 of them, each from 256 transitions. The data set is that of `--config.data.path`, and the one of
    docs/howto/robot_sets.md by default. Ten greedy episodes are played at every 5,000th learner step.

    Args:
        name: The config's name.
        agent: The agent.

    Source: Fujimoto & Gu 2021, arXiv:2106.06860, appendix C; Kumar et al. 2020 and Kostrikov et al. 2021 have the same
    batch, network and number of steps; CQL has a third layer.
    """
    config = make_config(name, "Hopper-v5", 0)
    config.total_updates = 10_000
    config.data.path = "runs/hopper-data/medium"
    config.data.batch = 256
    config.data.learner_steps = 100
    config.network.hidden_sizes = (256, 256)
    config.agent.name = agent
    config.evaluate.episodes = 10
    config.evaluate.every_updates = 50
    config.evaluate.greedy = True
    config.log.every_updates = 10
    return config


def atari_options() -> ml_collections.ConfigDict:
    """Returns Cleanba's options for Atari: sticky actions, all 18 actions (Machado et al. 2018, arXiv:1709.06009)."""
    return ml_collections.ConfigDict(
        {
            "repeat_action_probability": 0.25,
            "full_action_space": True,
            "episodic_life": False,
            "max_episode_frames": 108_000,
            "noop_max": 1,
            "use_fire_reset": True,
            "frame_skip": 4,
        }
    )


def football_options() -> ml_collections.ConfigDict:
    """Returns options of football: features, and rewards for goals only; see `podrl.envs.sources.football`."""
    return ml_collections.ConfigDict({"checkpoints": False, "observation": "features"})


def use_apex(config: ml_collections.ConfigDict) -> None:
    """Makes R2D2 Ape-X DQN: single steps, each drawn by its own priority, with targets over three steps.

    Source: Horgan et al. 2018, arXiv:1803.00933.
    """
    config.replay.priority_exponent = 0.6
    config.replay.importance_exponent = 0.4
    config.agent.name = "r2d2"
    config.agent.starts = "rows"
    config.agent.burn_in = 0
    config.agent.length = 1
    config.agent.n_steps = 3
    config.agent.share_of_max = 1.0


def use_vcr(config: ml_collections.ConfigDict) -> None:
    """Makes the agent VCR on Rainbow, with the numbers of SPR for 100,000 steps: two learner steps an env step.

    Source: Yue et al. 2023, arXiv:2206.12542; Schwarzer et al. 2021, arXiv:2007.05929, appendix.
    """
    config.replay.capacity = 100_000
    config.replay.batch = 32
    config.replay.ratio = 64.0
    config.replay.min_steps = 2_000
    config.replay.priority_exponent = 0.5
    config.replay.importance_exponent = 0.4
    config.agent.name = "rainbow"
    config.agent.n_steps = 10
    config.agent.target_period = 1
    config.agent.optimizer.learning_rate = 1e-4
    config.agent.auxiliary = {"kind": "value"}
    config.evaluate.greedy = True
