"""What the inspector says of a checkpoint's replay, against a plain count of its steps."""

import dataclasses
import functools
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from podrl.commands import inspect_checkpoint as tool
from podrl.config.config_dict import to_dict
from podrl.config.replay import ReplayConfig
from podrl.replay.batches import make_batch_replay
from podrl.runs import inspection, inspection_report
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_facts import Facts
from podrl.runs.checkpoint_replay import replay_folder
from podrl.runs.replay_inspection import inspect_replay
from podrl.types import Counters, Snapshot
from tests.faults.checkpoints import make_learner, make_snapshot
from tests.learning.test_learner import shapes
from tests.replay.rings import KINDS, B, PlainBuffer, Rollouts
from tests.runs.test_replay_pieces import replay_on
from tests.short_runs import make_agent, make_config, random_trajectory

LENGTH, ENVS, STEP = 6, 8, 40


@functools.cache
def rollouts(num_updates):
    """Rollouts that continue each other but for a cut before the fourth, where environments were reopened."""
    agent, spec = make_agent(make_config(agent="impact"))
    made = []
    for update in range(num_updates):
        found = jax.device_get(random_trajectory(agent, spec, length=LENGTH, num_envs=ENVS, seed=update))
        first, version = np.array(found.first), np.full_like(found.params_version, max(0, STEP - num_updates + update))
        first[0] = True if update in (0, 3) else made[-1].first[-1]
        first[-1] |= update == 4  # Episodes that end exactly there.
        reward = np.where(first[1:], np.float32(0), found.reward)
        made.append(dataclasses.replace(found, first=first, reward=reward, params_version=version))
    return made


def batch_ring(num_updates, size=3):
    replay = make_batch_replay(ReplayConfig(batches=size, uses=2), shapes(rollouts(num_updates)[0]))
    ring = replay.init(jax.random.key(0))
    for rollout in rollouts(num_updates):
        ring, _ = replay.draw(replay.insert(ring, rollout, True))
    return ring


def sequence_ring(num_updates, kind="recurrent", reopened=None):
    """A ring, and a plain buffer with the same; environments are reopened before the rollout of this number."""
    replay, made = replay_on(kind, 1), Rollouts(KINDS[kind])
    ring, plain = jax.jit(replay.init, out_shardings=replay.sharding)(), PlainBuffer(KINDS[kind])
    insert = jax.jit(replay.insert)
    for number in range(num_updates):
        rollout = made.make(reopened=number == reopened)
        ring = insert(ring, rollout)
        plain.insert(rollout)
    return ring, plain


def save(folder, ring, step=STEP, placement="sebulba"):
    """A checkpoint with this ring, which is on one device."""
    config = make_config(agent="impact", replay__batches=3, replay__uses=2, actors__unroll_length=4)
    learner = make_learner()
    whole = learner.state_shape.step.sharding
    snapshot = make_snapshot(learner, step)
    state = dataclasses.replace(snapshot.state, replay=jax.device_put(ring, whole))
    (folder / "config.json").parent.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    with Checkpointer(folder, keep=9) as checkpointer:
        found = Snapshot(state=state, counters=Counters(learner_steps=step), episodes={})
        values = to_dict(config)
        values["topology"]["placement"] = placement
        checkpointer.save(found, config=values, manifest={"commit": "a"})


def read(folder, step=STEP):
    return inspection.describe_checkpoint(inspection.epath.Path(folder), step)


@pytest.mark.parametrize("num_updates", [2, 3, 6])
def test_a_ring_of_batches(tmp_path, num_updates):
    save(tmp_path, batch_ring(num_updates))
    found = read(tmp_path).replay
    kept = rollouts(num_updates)[-3:]
    assert (found.num_updates, found.num_envs) == (len(kept), ENVS)
    assert found.num_steps == len(kept) * LENGTH * ENVS
    ages = sorted(int(age) for rollout in kept for age in (STEP - rollout.params_version).ravel())
    assert sorted(found.ages.tolist()) == ages
    expected = []
    for env in range(ENVS):
        total = None
        for number, rollout in enumerate(kept):
            if number + num_updates - len(kept) == 3:
                total = None  # Reopened: what was under way has not ended.
            for t in range(LENGTH):
                total = 0.0 if rollout.first[t, env] else total
                if total is None:
                    continue
                total += rollout.reward[t, env]
                if rollout.first[t + 1, env]:
                    expected.append(total)
                    total = None
    np.testing.assert_allclose(np.sort(found.returns), np.sort(expected), rtol=1e-5, atol=1e-5)
    assert len(expected) > 2
    assert found.num_starts == 0


@pytest.mark.parametrize("num_updates", [3, 4, 7])
def test_a_ring_of_sequences(tmp_path, num_updates):
    ring, plain = sequence_ring(num_updates)
    save(tmp_path, ring)
    found, shape = read(tmp_path).replay, KINDS["recurrent"]
    held = min(num_updates, shape.unrolls)
    assert (found.num_updates, found.num_envs, found.num_steps) == (held, B, held * shape.unroll_length * B)
    live = [priority for priority in plain.priority.values() if priority > 0]
    np.testing.assert_allclose(np.sort(found.priorities), np.sort(live))
    assert found.num_starts == B * shape.starts
    end, expected = num_updates * shape.unroll_length, []
    begin = end - held * shape.unroll_length
    is_full = held == shape.unrolls
    for env in range(B):
        opens = [row for row in range(begin + is_full, end + 1) if plain.rows[env, row]["first"]]
        for opened, after in itertools.pairwise(opens):
            expected.append(sum(float(plain.rows[env, row]["reward"]) for row in range(opened, after)))
    np.testing.assert_allclose(np.sort(found.returns), np.sort(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("placement", ["sebulba", "anakin"])
def test_an_episode_that_reopening_cut_is_not_whole(tmp_path, placement):
    """Unless it had terminated. Under Anakin environments that open together have ended together."""
    ring, plain = sequence_ring(7, reopened=5)
    save(tmp_path, ring, placement=placement)
    begin, cut, end = 3 * 4, 5 * 4, 7 * 4
    whole, left_out = [], 0
    for env in range(B):
        rows = [plain.rows[env, row] for row in range(end + 1)]
        opens = [row for row in range(begin + 1, end + 1) if rows[row]["first"]]
        for opened, after in itertools.pairwise(opens):
            terminated = 0 in (rows[after - 1]["discount"], rows[after - 2]["discount"])
            if placement == "sebulba" and after == cut and not terminated:
                left_out += 1
            else:
                whole.append(sum(float(rows[row]["reward"]) for row in range(opened, after)))
    assert (left_out > 5) == (placement == "sebulba")
    assert any(plain.rows[env, cut - 1]["discount"] == 0 for env in range(B))
    found = read(tmp_path).replay.returns
    np.testing.assert_allclose(np.sort(found), np.sort(whole), rtol=1e-4, atol=1e-4)


def test_a_ring_that_does_not_keep_who_acted_has_no_ages(tmp_path):
    ring, _ = sequence_ring(4)
    save(tmp_path, dataclasses.replace(ring, rows=dataclasses.replace(ring.rows, params_version=())))
    found = read(tmp_path).replay
    assert found.ages.size == 0
    assert found.num_steps == 4 * 4 * B


def test_a_ring_that_is_not_known_has_bytes(tmp_path):
    save(tmp_path, {"env_index": np.arange(8, dtype=np.uint32), "x": np.zeros((8, 3), np.float32)})
    found = read(tmp_path).replay
    assert found.num_updates is None
    assert inspection_report.count_bytes(found.shapes) == 8 * 4 + 8 * 3 * 4


def test_it_is_printed_and_drawn(tmp_path, capsys):
    save(tmp_path / "run", batch_ring(6), step=STEP - 1)
    save(tmp_path / "run", sequence_ring(7)[0])
    arguments = ["inspect_checkpoint.py", "--workdir", str(tmp_path / "run")]
    assert tool.main([*arguments, "--out", str(tmp_path / "replay.png")]) == 0
    printed = capsys.readouterr().out
    assert "arrays match their hashes" in printed
    assert "4 updates of 32 environments, 512 steps" in printed
    assert "that can be drawn, 50% of all" in printed
    assert "draws repeat as if of" in printed
    assert (tmp_path / "replay.png").read_bytes().startswith(b"\x89PNG")
    assert tool.main([*arguments, "--step", str(STEP - 1)]) == 0
    assert "none any more: only the newest checkpoint keeps it" in capsys.readouterr().out
    assert tool.main([*arguments, "--step", str(STEP - 1), "--out", str(tmp_path / "x.png")]) == 2
    assert f"checkpoint {STEP - 1} has no replay to draw" in capsys.readouterr().err


def test_damage_is_named_and_a_replay_that_its_run_deletes_meanwhile_is_none(tmp_path, monkeypatch, capsys):
    save(tmp_path, batch_ring(3))
    folder = Path(replay_folder(tmp_path, STEP))
    (chunk,) = [path for path in (folder / "batches/first").rglob("*") if path.is_file() and path.name != "zarr.json"]
    content = chunk.read_bytes()
    chunk.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert tool.main(["inspect_checkpoint.py", "--workdir", str(tmp_path)]) == 1
    assert "is damaged: replay/batches/first: the hash is not that of what was saved" in capsys.readouterr().err
    chunk.write_bytes(content)
    assert read(tmp_path).replay is not None

    def delete_and_hash(folder, path):
        (folder / "zarr.json").unlink(missing_ok=True)
        raise FileNotFoundError(path)

    monkeypatch.setattr("podrl.runs.replay_inspection.hash_stored", delete_and_hash)
    assert read(tmp_path).replay is None


def test_a_run_without_replay_says_nothing_of_it(tmp_path):
    facts = Facts(
        counters=Counters(), episodes={}, chain="", wall_s=None, config=None, manifest=None, arrays={}, replay=None
    )
    assert inspect_replay(tmp_path, 1, facts) is None
