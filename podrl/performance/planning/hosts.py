"""What one host of a job has of its environments and of its replay."""

import dataclasses

from podrl.config.config import Config, check


def config_of_host(config: Config, hosts: int) -> Config:
    """Returns a config whose run on one host is each host's share of the job.

    An update has as many learner steps as the job's, each on the host's share of the batch.

    Args:
        config: The job's config.
        hosts: Processes of the job.

    Raises:
        ConfigError: If environments, or the groups and sequences of a replay, do not divide over the hosts.
    """
    actors, replay = config.actors, config.replay
    num_envs = actors.num_envs
    check(num_envs % hosts == 0, f"actors.num_envs={num_envs} does not divide over {hosts} processes. Use a multiple.")
    if config.agent.update_shape.sequences is not None:
        check(
            replay.batch % hosts == 0 and replay.groups % hosts == 0,
            f"replay.batch={replay.batch} and replay.groups={replay.groups} do not divide over {hosts} processes. Use "
            "multiples, or replay.groups=0 to have them chosen.",
        )
        replay = dataclasses.replace(
            replay,
            capacity=-(-replay.capacity // hosts),
            batch=replay.batch // hosts,
            groups=replay.groups // hosts,
            min_steps=replay.min_steps // hosts,
        )
    return dataclasses.replace(config, actors=dataclasses.replace(actors, num_envs=num_envs // hosts), replay=replay)
