"""Damage is found and named; what cannot be read is no damage; a run is never begun anew over what it has."""

import contextlib
import errno
import json
import os
from pathlib import Path
import resource
import shutil

from etils import epath
import jax
import numpy as np
import pytest

from podrl.ops.fingerprint import hash_arrays, hash_on_host
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_arrays import check_all, make_records
from podrl.runs.checkpoint_errors import CheckpointError, DamagedError, UnreadableError
from podrl.runs.checkpoint_facts import read_facts
from podrl.runs.checkpoint_restore import restore
from tests.faults.checkpoints import edit, files, make_learner, make_snapshot, outcome, plain, put_back, save, unseal


@pytest.fixture(scope="module")
def learner():
    return make_learner()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, learner):
    """The folder of a run with one checkpoint; whoever damages it puts that right again."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, learner)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def largest_file(checkpoint):
    return max(files(checkpoint / "state/ocdbt.process_0"), key=lambda path: path.stat().st_size)


def flip(path):
    """Changes a bit of every 16th byte: some of them are of arrays."""
    content = bytearray(path.read_bytes())
    for byte in range(0, len(content), 16):
        content[byte] ^= 1
    path.write_bytes(content)


class TestHashes:
    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [
            *(((), "float32"), ((3, 5), "float32"), ((7,), "bfloat16"), ((2, 2), "float16"), ((4,), "bool")),
            *(((2, 3, 4, 4), "uint8"), ((2, 3, 5), "uint8"), ((5,), "int8"), ((6,), "int32"), ((0, 3), "float32")),
        ],
    )
    def test_the_host_computes_what_devices_do_however_they_share_the_array(self, shape, dtype):
        bits = np.random.default_rng(1).integers(0, 2, (*shape, 64)).sum(-1)
        array = jax.numpy.asarray(bits, dtype)
        expected = hash_arrays({"a": array})["a"]
        assert hash_on_host(jax.device_get(array)) == expected
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
        if shape and shape[0] % 2 == 0:
            split = jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))
            assert hash_arrays({"a": split})["a"] == expected

    def test_every_bit_and_every_place_counts(self):
        array = np.arange(40, dtype=np.float32)
        changed = [array.view(np.uint32).copy() for _ in range(32)]
        for bit, words in enumerate(changed):
            words[bit] ^= np.uint32(1 << bit)
        swapped = np.concatenate([array[1::-1], array[2:]])
        assert len({hash_on_host(each.view(np.float32)) for each in [array, swapped, *changed]}) == 34


class TestDamage:
    def test_flipped_bits_of_arrays(self, copy, learner):
        flip(largest_file(copy / "checkpoints/80"))
        with pytest.raises(DamagedError, match=r"Checkpoint 80 in .* is damaged"):
            restore(copy, learner.state_shape, 80)

    def test_an_array_that_was_changed_and_written_well_names_it(self, copy, learner):
        """The facts of one checkpoint beside the arrays of another, of the same update."""
        with Checkpointer(copy.parent / "other", keep=1) as checkpointer:
            other = make_snapshot(learner)
            params = jax.tree.map(lambda x: x + 1, other.state.params)
            checkpointer.save(type(other)(**{**vars(other), "state": other.state.replace(params=params)}))
        shutil.rmtree(copy / "checkpoints/80/state")
        shutil.copytree(copy.parent / "other/checkpoints/80/state", copy / "checkpoints/80/state")
        said = r"damaged: params/encoder/Dense_0/bias and 5 more of \d+ arrays: the hash is not that of what was saved"
        with pytest.raises(DamagedError, match=said):
            restore(copy, learner.state_shape, 80)
        with pytest.raises(DamagedError, match=r"arrays: the hash is not that of what was saved"):
            check_all(copy, 80, read_facts(copy, 80))

    @pytest.mark.parametrize("name", ["learner_steps", "env_steps", "frames"])
    @pytest.mark.parametrize("value", [90, 8000, -5, 80.0, "80", None, True, [80]])
    def test_wrong_counters(self, saved, learner, name, value):
        path = saved / "checkpoints/80/counters/metadata"
        with put_back(path):
            edit(path, lambda fact: fact.update({name: value}))
            with pytest.raises(DamagedError, match="its counters"):
                restore(saved, learner.state_shape, 80)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "80", '"text"', "{}", '{"newest": 3}', "[" * 100_000])
    @pytest.mark.parametrize("name", ["counters", "episodes", "chain", "clock", "config", "manifest", "hashes"])
    def test_json_of_the_wrong_kind(self, saved, learner, name, text):
        path = saved / f"checkpoints/80/{name}/metadata"
        with put_back(path):
            path.write_text(text)
            with pytest.raises(DamagedError, match="damaged"):
                restore(saved, learner.state_shape, 80)

    @pytest.mark.parametrize(
        "name", ["counters", "episodes", "chain", "clock", "config", "manifest", "hashes", "state"]
    )
    def test_a_missing_part(self, copy, learner, name):
        shutil.rmtree(copy / "checkpoints/80" / name)
        with pytest.raises(DamagedError, match=r"is not there|are not there"):
            restore(copy, learner.state_shape, 80)

    @pytest.mark.parametrize("sealed", [True, False])
    def test_a_missing_record_of_the_arrays_is_no_other_network(self, copy, learner, sealed):
        if not sealed:
            unseal(copy / "checkpoints/80")
        (copy / "checkpoints/80/state/_METADATA").unlink()
        with pytest.raises(DamagedError, match="state/_METADATA is not there"):
            restore(copy, learner.state_shape, 80)

    @pytest.mark.parametrize("sealed", [True, False])
    def test_another_number_in_its_name(self, copy, learner, sealed):
        if not sealed:
            unseal(copy / "checkpoints/80")
        (copy / "checkpoints/80").rename(copy / "checkpoints/90")
        with pytest.raises(DamagedError, match="its counters are of update 80"):
            restore(copy, learner.state_shape, 90)

    @pytest.mark.parametrize("value", [-1, None, "80", True, [80], float("inf"), float("nan")])
    def test_of_an_old_checkpoint_a_clock_that_says_no_seconds(self, copy, learner, value):
        unseal(copy / "checkpoints/80")
        edit(copy / "checkpoints/80/clock/metadata", lambda fact: fact.update(wall_s=value))
        with pytest.raises(DamagedError, match="its clock is"):
            restore(copy, learner.state_shape, 80)

    def test_of_an_old_checkpoint_the_state_of_another_update(self, copy, learner):
        for step in (80, 40):
            if step == 40:
                save(copy, learner, 40)
            unseal(copy / f"checkpoints/{step}")
        shutil.rmtree(copy / "checkpoints/80/state")
        shutil.copytree(copy / "checkpoints/40/state", copy / "checkpoints/80/state")
        with pytest.raises(DamagedError, match="its state is of update 40"):
            restore(copy, learner.state_shape, 80)

    @pytest.mark.parametrize(("name", "value"), [("learner_steps", 90), ("learner_steps", -5), ("frames", 3)])
    def test_of_an_old_checkpoint_wrong_counters(self, copy, learner, name, value):
        unseal(copy / "checkpoints/80")
        edit(copy / "checkpoints/80/counters/metadata", lambda fact: fact.update({name: value}))
        with pytest.raises(DamagedError, match="its counters"):
            restore(copy, learner.state_shape, 80)

    def test_a_checkpoint_from_before_there_were_hashes_is_read_and_said_to_be_unchecked(self, copy, learner, caplog):
        caplog.set_level("INFO", logger="absl")
        unseal(copy / "checkpoints/80")
        assert outcome(copy, learner, plain(make_snapshot(learner))) == "unchanged"
        assert "Checkpoint 80 was made before podrl saved hashes with the arrays" in caplog.text
        assert check_all(copy, 80, read_facts(copy, 80)) is None


class TestUnreadable:
    """The system refuses, and nothing in the folder is touched."""

    @contextlib.contextmanager
    def stopped(self, run, learner, reason):
        before = sorted(path.name for path in (run / "checkpoints").iterdir())
        with Checkpointer(run, keep=9) as checkpointer:
            with pytest.raises(UnreadableError, match=rf"cannot be read: {reason}. Nothing was changed"):
                yield lambda: checkpointer.restore_first(learner.state_shape, [80])
            assert checkpointer.steps() == [80]
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before

    @pytest.mark.skipif(os.geteuid() != 0, reason="wants to become another user")
    @pytest.mark.parametrize("name", ["counters/metadata", "state/_METADATA", "state/manifest.ocdbt", "largest"])
    def test_no_permission(self, copy, learner, name):
        for folder in (copy, *copy.parents[:3]):
            folder.chmod(0o755)
        checkpoint = copy / "checkpoints/80"
        (largest_file(checkpoint) if name == "largest" else checkpoint / name).chmod(0)
        with self.stopped(copy, learner, "Permission denied") as read:
            os.seteuid(65534)
            try:
                read()
            finally:
                os.seteuid(0)

    def test_no_descriptors(self, copy, learner):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with self.stopped(copy, learner, "Too many open files") as read:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                read()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    @pytest.mark.parametrize("name", ["chain/metadata", "state/_METADATA", "state/array_metadatas/process_0"])
    def test_an_error_of_the_device(self, copy, learner, name):
        path = copy / "checkpoints/80" / name
        path.unlink()
        path.symlink_to("/proc/self/mem")  # Reading its first byte is an error of input and output.
        with self.stopped(copy, learner, "Input/output error") as read:
            read()

    def test_a_stale_handle(self, copy, learner, monkeypatch):
        def stale(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

        with self.stopped(copy, learner, "Stale file handle") as read:
            monkeypatch.setattr(epath.Path("/").__class__, "read_text", stale)
            read()


class TestReadBack:
    @pytest.mark.parametrize("name", ["lr=[1,2]", "back\\slash"])
    def test_what_cannot_be_found_again_does_not_count(self, tmp_path, learner, name):
        """Names that training refuses; were they let in, the save would fail, and leave older checkpoints alone."""
        with (
            pytest.raises(CheckpointError, match=r"The checkpoint of update 80 could not be saved"),
            Checkpointer(tmp_path / name, keep=1) as checkpointer,
        ):
            checkpointer.save(make_snapshot(learner))
        assert not [path for path in (tmp_path / name / "checkpoints").iterdir() if path.name.isdigit()]

    def test_an_index_that_lacks_an_array_does_not_count(self, tmp_path, learner, monkeypatch):
        monkeypatch.setattr("podrl.runs.checkpoint.make_records", self.records)
        with (
            pytest.raises(CheckpointError, match=r"could not be saved as .*more is not there"),
            Checkpointer(tmp_path, keep=1) as checkpointer,
        ):
            checkpointer.save(make_snapshot(learner))

    def records(self, arrays):
        """What has to be there, and one array more."""
        records = make_records(arrays)
        return records | {"more": next(iter(records.values()))}


class TestPutAside:
    def test_all_damaged_ones_stay_where_they_are(self, tmp_path, learner):
        save(tmp_path, learner, 40, 80)
        for step in (40, 80):
            (tmp_path / f"checkpoints/{step}/counters/metadata").write_text("{")
        with Checkpointer(tmp_path, keep=9) as checkpointer:
            for _ in range(2):
                with pytest.raises(DamagedError, match=r"80/counters.*40/counters"):
                    checkpointer.restore_first(learner.state_shape, [80, 40])
            assert checkpointer.steps() == [40, 80]

    def test_none_that_was_put_aside_before_is_lost(self, tmp_path, learner):
        save(tmp_path, learner, 40)
        for text in ("{", "["):
            save(tmp_path, learner, 80)
            (tmp_path / "checkpoints/80/counters/metadata").write_text(text)
            with Checkpointer(tmp_path, keep=9) as checkpointer:
                assert checkpointer.restore_first(learner.state_shape, [80, 40]).counters.learner_steps == 40
        for name, text in (("damaged-80", "{"), ("damaged-80-2", "[")):
            assert (tmp_path / f"checkpoints/{name}/counters/metadata").read_text() == text


def test_the_return_of_one_that_cannot_be_read_is_not_taken_for_none(copy, monkeypatch):
    """Else the best checkpoint would be deleted for an error of the network."""
    from podrl.runs.checkpoint_facts import read_return

    assert read_return(copy, 80) == 0.5
    path = copy / "checkpoints/80/episodes/metadata"
    path.write_text(json.dumps([]))
    assert read_return(copy, 80) is None
    path.unlink()
    path.symlink_to("/proc/self/mem")
    with pytest.raises(UnreadableError, match="Input/output error"):
        read_return(copy, 80)
