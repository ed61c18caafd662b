"""Whole plans, of podrl's own programs, on devices that stand for those that are not there."""

import dataclasses
import json
import math
import re

import jax
import pytest
from rich.console import Console

from configs import impact_catch, impala_atari, impala_catch, ppo_cartpole, ppo_minatar, r2d2_atari, r2d2_memory
from podrl.assembly import resolve
from podrl.config.config import ConfigError
from podrl.config.units import describe_bytes
from podrl.performance.planning import report
from podrl.performance.planning.compilation import compile_for_devices, count
from podrl.performance.planning.costs import OutOfMemory
from podrl.performance.planning.measured import parse_local
from podrl.performance.planning.model import Assumptions
from podrl.performance.planning.plans import Fit, Misfit, fit_environments, make_plan, plan_to_json
from podrl.performance.planning.remedies import propose, try_remedies
from podrl.performance.planning.slices import parse_slice

ASSUMPTIONS = Assumptions(env_steps_per_vcpu_s=1000.0, env_source="given", vcpus=None, achieved=0.5, dispatch_s=3e-4)


def make_config(module=impala_atari, **changes):
    values = module.get_config()
    with values.unlocked():
        for key, value in changes.items():
            values.update_from_flattened_dict({key: value})
    return resolve(values)


@pytest.fixture(scope="module")
def catch():
    return make_config(impala_catch, **{"actors.num_envs": 64})


class TestCosts:
    def test_what_is_counted_is_close_to_what_is_compiled(self, catch):
        values = dataclasses.replace(catch, topology=dataclasses.replace(catch.topology, micro_batches=1))
        compiled = compile_for_devices(values, jax.devices()[:2])
        counted = count(values, hosts=1, devices=2, platform="cpu")
        assert compiled.compiled
        assert not counted.compiled
        assert counted.update.product_flops == compiled.update.product_flops
        assert counted.update.flops == pytest.approx(compiled.update.flops, rel=0.1)
        assert counted.act.flops == pytest.approx(compiled.act.flops, rel=0.1)
        assert counted.update.argument_bytes == pytest.approx(compiled.update.argument_bytes, rel=0.05)
        assert counted.update.traffic.keys() == compiled.update.traffic.keys()
        for name in ("actors", "learners", "devices", "layout", "parameter_bytes", "rollout_bytes", "upload_bytes"):
            assert getattr(counted, name) == getattr(compiled, name)

    def test_hosts_have_equal_shares(self, catch):
        one, four = (count(catch, hosts=hosts, devices=1, platform="cpu") for hosts in (1, 4))
        assert four.act.flops == pytest.approx(one.act.flops / 4)
        assert four.update.flops == pytest.approx(one.update.flops / 4, rel=0.01)
        assert four.env_steps_of_host == one.env_steps_of_host / 4
        assert (one.update.traffic, *four.update.traffic) == ({}, "all-reduce")

    def test_environments_inside_the_program_have_no_acting_of_their_own(self):
        found = count(make_config(ppo_cartpole), hosts=1, devices=2, platform="gpu")
        assert found.is_fused
        assert found.update.flops > 0

    @pytest.mark.parametrize("encoder", ["minatar", "resnet"])
    def test_a_gpus_program_has_convolutions_in_its_loops(self, encoder):
        """A CPU's has not, for bfloat16: counted as that, what each step of acting writes would be alive at once."""
        changes = {"network.encoder": encoder, "network.compute_dtype": "bfloat16", "network.separate_value": False}
        changes["agent.epochs"] = 1  # A CPU's program has each in full.
        few, many = (
            make_config(ppo_minatar, **changes, **{"actors.unroll_length": length, "agent.minibatches": parts})
            for length, parts in ((2, 1), (8, 4))  # With as many rows in a minibatch.
        )
        short, long = (count(config, hosts=1, devices=1, platform="gpu").update for config in (few, many))
        assert long.temporary_bytes <= 1.1 * short.temporary_bytes
        on_cpu = count(few, hosts=1, devices=1, platform="cpu").update
        assert short.product_flops == pytest.approx(on_cpu.product_flops, rel=0.01)

    def test_what_comes_one_after_the_other_is_not_alive_at_once(self):
        few, many = (
            count(make_config(ppo_cartpole, **{"agent.epochs": epochs}), hosts=1, devices=1, platform="gpu")
            for epochs in (1, 8)
        )
        assert many.update.temporary_bytes == few.update.temporary_bytes
        assert many.update.flops > 4 * few.update.flops
        assert many.reductions == 8 * few.reductions

    def test_a_ring_of_sequences_is_shared_by_devices_and_hosts(self):
        """Each learner device holds its share of the environments' steps, and learns from its share of a batch."""
        values = make_config(r2d2_memory)
        one, two, hosts = (
            count(values, hosts=hosts, devices=devices, platform="cpu") for hosts, devices in ((1, 1), (1, 2), (2, 2))
        )
        steps, images = 50_176, 3 * 4  # Of at least 50,000 in whole unrolls; three floats of an observation.
        assert one.replay_bytes > steps * images
        assert one.replay_bytes < one.state_bytes
        assert two.replay_bytes == pytest.approx(one.replay_bytes / 2, rel=0.01)
        assert hosts.replay_bytes == pytest.approx(one.replay_bytes / 4, rel=0.05)
        assert hosts.update.flops == pytest.approx(one.update.flops / 4, rel=0.05)
        assert hosts.config.replay == values.replay

    def test_without_replay_it_takes_nothing(self, catch):
        assert count(catch, hosts=1, devices=1, platform="cpu").replay_bytes == 0

    def test_a_ring_that_does_not_divide_over_hosts_is_one_clear_line(self):
        values = make_config(r2d2_memory, **{"replay.groups": 2, "actors.num_envs": 96})
        with pytest.raises(ConfigError, match=r"replay.batch=64 and replay.groups=2 do not divide over 3 processes"):
            count(values, hosts=3, devices=1, platform="cpu")

    def test_environments_that_do_not_divide_are_one_clear_line(self, catch):
        with pytest.raises(ConfigError, match="num_envs=64 does not divide over 7 processes"):
            count(catch, hosts=7, devices=1, platform="cpu")


class TestFitting:
    def test_a_small_number_of_environments_becomes_as_many_on_each_host(self):
        config, note = fit_environments(make_config(), parse_slice("h100:128x8"))
        assert config.actors.num_envs == 64 * 128
        assert "64" in note or "8,192" in note

    def test_what_divides_stays(self):
        config = make_config(**{"actors.num_envs": 1024})
        assert fit_environments(config, parse_slice("h100:2x8")) == (config, "")
        assert fit_environments(config, parse_slice("h100:8")) == (config, "")


@pytest.fixture(scope="module")
def plan():
    return make_plan(make_config(**{"actors.num_envs": 1024}), parse_slice("h100:4x8"), ASSUMPTIONS)


class TestPlan:
    def test_it_has_everything_that_a_person_asks(self, plan):
        assert isinstance(plan.found, Fit)
        console = Console(record=True, width=1000)
        report.show_plan(console, plan, price_per_chip_hour=2.0)
        report.show_summary(console, [plan, plan])
        text = console.export_text()
        for part in (
            "learner",
            "actor",
            "What binds",
            "vCPUs",
            "Best split",
            "A billion frames",
            "efficiency",
            "Rests on",
        ):
            assert part in text

    @pytest.mark.parametrize(
        ("module", "batches"), [pytest.param(r2d2_atari, 0, marks=pytest.mark.slow), (impact_catch, 4)]
    )
    def test_it_names_the_bytes_of_the_replay(self, module, batches):
        plan = make_plan(make_config(module), parse_slice("h100:4"), ASSUMPTIONS)
        found = plan_to_json(plan, None)["replay_bytes"]
        if batches:
            assert found > batches * plan.found.run.rollout_bytes / plan.found.run.learners * 0.9
        else:  # Frames of 84 x 84 in tiles of 4 KiB, and four million of them.
            assert found == pytest.approx(4_000_000 * 7_168 / plan.found.run.learners, rel=0.05)
        console = Console(record=True, width=1000)
        report.show_plan(console, plan, price_per_chip_hour=None)
        assert f"replay {describe_bytes(found)} on each learner device" in console.export_text()

    def test_nothing_of_a_tiny_network_reads_as_zero(self, catch):
        console = Console(record=True, width=1000)
        small = dataclasses.replace(catch.network, hidden_sizes=(2,))
        plan = make_plan(dataclasses.replace(catch, network=small), parse_slice("h100:2x2"), ASSUMPTIONS)
        report.show_plan(console, plan, price_per_chip_hour=2.0)
        figures = re.findall(
            r"(?<![\w.])[\d,]*\.?\d+(?:e-\d+)?(?= ?(?:[KMG]?i?B|[kMGT]?FLOP|[mun]s|%|  ))", console.export_text()
        )
        assert len(figures) > 30
        assert not [figure for figure in figures if float(figure.replace(",", "")) == 0]

    def test_json_has_the_same(self, plan):
        found = json.loads(json.dumps(plan_to_json(plan, 2.0)))
        assert found["fits"]
        assert found["chips"] == 32
        assert found["prediction"]["frames_per_s"] == pytest.approx(4 * found["prediction"]["env_steps_per_s"])
        hours = 1e9 / found["prediction"]["frames_per_s"] / 3600
        assert found["price_per_billion_frames"] == pytest.approx(2.0 * 32 * hours)
        assert [row["hosts"] for row in found["weak"]] == [1, 2, 4]

    def test_environments_inside_the_program_need_no_vcpus(self):
        assumptions = dataclasses.replace(ASSUMPTIONS, env_steps_per_vcpu_s=math.inf)
        plan = make_plan(make_config(ppo_cartpole), parse_slice("h100:1"), assumptions)
        assert any("upper bound" in line for line in plan.assumptions)
        found = json.dumps(plan_to_json(plan, None), allow_nan=False)
        assert json.loads(found)["machine"]["env_steps_per_core_s"] is None

    def test_the_cpus_of_its_hosts_bind_atari(self, plan):
        assert plan.found.prediction.limit == "env"
        rate = plan.found.prediction.env_steps_per_s
        assert rate == pytest.approx(4 * 0.9 * 208 * 1000, rel=0.01)

    def test_what_is_too_large_says_what_to_change(self):
        config = make_config(**{"actors.num_envs": 8192, "network.width": 4, "actors.unroll_length": 80})
        plan = make_plan(config, parse_slice("h100:2"), ASSUMPTIONS)
        assert isinstance(plan.found, Misfit)
        fitting = [remedy for remedy in plan.found.remedies if remedy.run]
        assert len(fitting) == 1
        assert fitting[0].arguments.startswith("--config.topology.micro_batches=")
        assert fitting[0].run.update.peak_bytes < 80 * 2**30 < plan.found.shortage.needed_bytes
        console = Console(record=True, width=1000)
        report.show_plan(console, plan, None)
        text = console.export_text()
        assert "Does not fit: needs" in text
        assert f"{fitting[0].arguments} fits" in text
        assert not plan_to_json(plan, None)["fits"]

    def test_a_gpus_remedy_is_only_said_to_fit_if_it_does(self, catch):
        gpu = parse_slice("h100:1")
        small = dataclasses.replace(gpu, chip=dataclasses.replace(gpu.chip, memory_bytes=100_000))
        plan = make_plan(catch, small, ASSUMPTIONS)
        assert isinstance(plan.found, Misfit)
        assert not any(remedy.run for remedy in plan.found.remedies)
        assert plan.found.remedies[0].shortage is not None

    def test_sharded_parameters_are_not_counted(self):
        config = make_config(
            **{"network.encoder": "mlp", "network.hidden_sizes": (1024, 1024), "topology.sharding": "fsdp"}
        )
        with pytest.raises(ConfigError, match="planned for TPU slices only"):
            make_plan(config, parse_slice("h100:8"), ASSUMPTIONS)


class TestRemedies:
    SHORTAGE = OutOfMemory(30e9, 10e9, "too large")

    def test_what_keeps_the_result_comes_first_and_is_large_enough(self):
        first, *others = propose(make_config(), self.SHORTAGE, envs_per_device=16)
        assert first.arguments == "--config.topology.micro_batches=4"
        assert [remedy.arguments.partition("=")[0].rpartition(".")[2] for remedy in others] == [
            "compute_dtype",
            "sharding",
            "num_envs",
        ]

    def test_they_are_tried_until_one_fits(self, catch):
        run = count(catch, hosts=1, devices=1, platform="cpu")
        tried = []

        def compile(config):
            tried.append(config)
            if len(tried) == 1:
                raise self.SHORTAGE
            return run

        found = try_remedies(make_config(), self.SHORTAGE, 16, compile, tries=2)
        assert len(tried) == 2
        assert [bool(remedy.run) for remedy in found] == [False, True, False, False]
        assert found[0].shortage is self.SHORTAGE

    def test_no_more_are_tried_than_allowed(self):
        def compile(config):
            raise self.SHORTAGE

        found = try_remedies(make_config(), self.SHORTAGE, 16, compile, tries=2)
        assert [remedy.shortage is not None for remedy in found] == [True, True, False, False]


def test_names_of_this_machine():
    assert parse_local("this") == (1, 1)
    assert parse_local("this:2x4") == (2, 4)
    with pytest.raises(ConfigError, match="processes x devices"):
        parse_local("this:2")
