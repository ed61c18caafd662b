import threading

import numpy as np
import pytest

from podrl.config.config import ConfigError, EnvConfig
from tests.envs import scripted


def make_pool(num_envs=2, **options):
    config = EnvConfig(source="tests.envs.scripted", id="script", options=options)
    return scripted.make_pool(config, seeds=range(num_envs), num_threads=1)


def play(pool, num_steps):
    timesteps = [pool.reset()]
    for _ in range(num_steps):
        pool.send(np.zeros(len(pool.seeds), np.int32))
        timesteps.append(pool.recv())
    return timesteps


def test_script_by_hand():
    timesteps = play(make_pool(1, episode_lengths=(1, 2)), 6)

    assert [t.observation[0].tolist() for t in timesteps] == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [0, 1, 1],
        [0, 1, 2],
        [0, 2, 0],
        [0, 2, 1],
    ]
    assert [t.reward[0] for t in timesteps] == [0, 1, 0, 1, 2, 0, 1]
    assert [t.discount[0] for t in timesteps] == [1, 0, 1, 1, 0, 1, 0]
    assert [t.first[0] for t in timesteps] == [True, False, True, False, False, True, False]


def test_truncation_keeps_discount_one():
    timesteps = play(make_pool(1, episode_lengths=(1, 2), truncate=True), 6)

    assert all(t.discount[0] == 1 for t in timesteps)
    assert [t.first[0] for t in timesteps] == [True, False, True, False, False, True, False]


def test_rows_take_the_lengths_in_turn():
    timesteps = play(make_pool(2, episode_lengths=(1, 3)), 4)

    assert [t.first.tolist() for t in timesteps] == [[True, True], [0, 0], [True, 0], [0, 0], [0, True]]


def test_raises_on_time():
    with pytest.raises(RuntimeError, match="scripted failure at step 3"):
        play(make_pool(raise_at_step=3), 3)
    play(make_pool(raise_at_step=3), 2)


def test_close_ends_a_hang():
    pool = make_pool(hang_at_step=1)
    pool.reset()
    pool.send(np.zeros(2, np.int32))
    failures = []

    def wait():
        try:
            pool.recv()
        except RuntimeError as error:
            failures.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    pool.close()
    thread.join(5.0)

    assert not thread.is_alive()
    assert failures == ["scripted: use after close()"]


def test_unknown_option_is_refused():
    with pytest.raises(ConfigError, match=r"env.options.episode_length "):
        make_pool(episode_length=3)
