"""What differs between processes, in one line; `test_joining` has the same with real processes."""

import dataclasses

from podrl.agents.impala import AgentConfig
from podrl.config.commandline import load_config
from podrl.config.config_dict import from_config_dict
from podrl.runtime.job.preflight import describe_differences, make_device_facts, make_process_facts
from tests.processes import ROOT

NAMES = [f"process {index} (node{index + 1})" for index in range(4)]


def test_what_is_the_same_is_not_mentioned():
    assert describe_differences([{"jax": "1"}] * 3, NAMES) == ""


def test_of_two_both_are_named():
    assert describe_differences([{"jax": "0.10.2"}, {"jax": "0.10.1"}], NAMES) == (
        "Process 0 (node1) has jax 0.10.2, process 1 (node2) has 0.10.1. Install the same versions everywhere."
    )


def test_of_more_the_odd_ones_are_named():
    everybody = [{"jax": "1"}, {"jax": "2"}, {"jax": "1"}, {"jax": "1"}]
    assert describe_differences(everybody, NAMES).startswith("Process 1 (node2) has jax 2, the others have 1. Install")
    everybody = [{"jax": "1"}, {"jax": "2"}, {"jax": "3"}, {"jax": "1"}]
    odd = "Process 1 (node2) has jax 2, process 2 (node3) has 3, the others have 1. "
    assert describe_differences(everybody, NAMES).startswith(odd)
    everybody = [{"jax": "1"}, {"jax": "1"}, {"jax": "2"}, {"jax": "2"}]
    odd = "Process 2 (node3), process 3 (node4) have jax 2, the others have 1. "
    assert describe_differences(everybody, NAMES).startswith(odd)


def test_what_one_does_not_know_differs():
    assert "process 1 (node2) has nothing" in describe_differences([{"x": "1"}, {}], NAMES)


def test_much_that_differs_is_cut_short():
    line = describe_differences([{str(key): "1" for key in range(9)}, {str(key): "2" for key in range(9)}], NAMES)
    assert line.count("node1") == 3
    assert "and 6 more" in line


def test_facts_name_the_config_by_its_keys():
    config = from_config_dict(load_config(str(ROOT / "configs/impala_catch.py")), AgentConfig)
    other = dataclasses.replace(config, seed=config.seed + 1)
    line = describe_differences(
        [
            make_process_facts(config, {"workdir": "run"}),
            make_process_facts(config, {"workdir": "run"}),
            make_process_facts(other, {"workdir": "run"}),
        ],
        NAMES,
    )
    assert line == (
        f"Process 2 (node3) has --config.seed {config.seed + 1}, the others have {config.seed}. Give every process the "
        "same command and the same config file."
    )


def test_flags_of_xla_count_in_any_order_and_folders_for_dumps_do_not(monkeypatch):
    config = from_config_dict(load_config(str(ROOT / "configs/impala_catch.py")), AgentConfig)
    facts = []
    for flags in ("--a=1 --b=2 --xla_dump_to=/x", "--b=2 --a=1", "--b=2 --a=2"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        facts.append(make_process_facts(config, {"workdir": "run"}))
    assert describe_differences(facts[:2], NAMES) == ""
    line = describe_differences(facts[1:], NAMES)
    assert "has XLA_FLAGS --a=1 --b=2, process 1 (node2) has --a=2 --b=2. Set it" in line
    assert "podrl adds a flag" in line


def test_devices_are_counted():
    assert make_device_facts() == {"kind of device": "cpu", "number of devices": "8"}


def test_flags_that_differ_are_named():
    line = describe_differences([{"--workdir": "runs/a"}, {"--workdir": "runs/b"}], NAMES)
    assert line.startswith(
        "Process 0 (node1) has --workdir runs/a, process 1 (node2) has runs/b. Give every process the"
    )
