"""The contract with JAX's private API, on whatever JAX is installed: what is called, how, and what comes of it."""

import concurrent.futures
import contextlib
import socket
import time

import jax
import pytest

from podrl.mistakes import ConfigError
from podrl.runtime.job import jax_service
from podrl.runtime.job.addresses import join_address
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.joining import join
from tests.multihost.jobs import free_address
from tests.processes import LAUNCHER, ROOT, launch

# A later JAX: it has another name for what podrl calls.
RENAMED = "del jaxlib._jax.get_distributed_runtime_client"
PROGRAM = """import runpy, sys
sys.path.insert(0, {root!r})
import jax, jaxlib._jax
{change}
try:
    runpy.run_path({launcher!r}, run_name="__main__")
finally:
    print("imported:", "podrl.runtime.job.job" in sys.modules, "podrl.runtime.job.jax_service" in sys.modules)
"""


@contextlib.contextmanager
def service(count=2):
    """JAX's service at a free port, and clients of its that have connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = join_address(*listener.getsockname())
        running = jax_service.start_service(listener, address, count, 25)
    clients = [jax_service.Client(address, index, connect_s=60, beat_s=30) for index in range(count)]
    try:
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda client: client.connect(), clients))
        yield clients, running
    finally:
        for client in clients:
            client.shutdown()


@contextlib.contextmanager
def another_jax(tmp_path, change):
    """The command that users run, with a JAX that differs."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), launcher=str(LAUNCHER), change=change))
    yield lambda *flags: launch("--config", ROOT / "configs/impala_catch.py", *flags, cwd=tmp_path, program=program)


def test_keys_and_values():
    with service() as ((one, other), _):
        one.put("folder/a", "1")
        one.put("folder/b", "2")
        assert other.take("folder/b", 60.0) == "2"
        assert sorted(other.keys("folder")) == ["folder/a", "folder/b"]
        with pytest.raises(jax.errors.JaxRuntimeError, match="ALREADY_EXISTS"):
            other.put("folder/a", "3")
        other.delete("folder/a")
        assert one.keys("folder") == ["folder/b"]
        one.delete("folder")
        assert one.keys("folder") == []


def test_a_value_that_does_not_come_is_none_after_the_time_limit():
    with service() as ((one, other), _):
        began_s = time.monotonic()
        assert one.take("nothing", 0.3) is None
        assert 0.2 < time.monotonic() - began_s < 30
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(one.take, "late", 60.0)
            other.put("late", "1")
            assert waiting.result() == "1"


def test_those_that_are_alive_wait_for_each_other():
    with service() as (clients, _), concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(clients[0].alive, range(2))
        time.sleep(0.2)
        assert not first.done()
        assert pool.submit(clients[1].alive, range(2)).result() == {0, 1} == first.result()


def test_what_jax_itself_is_told():
    """That its devices and collectives come of it is seen in `test_joining.py`."""
    from jax._src import distributed

    before = vars(distributed.global_state).copy()
    with service(count=1) as ((client,), _):
        try:
            client.give_to_jax("host:1", 0, 1)
            assert jax.distributed.is_initialized()
            client.take_from_jax()
            assert not jax.distributed.is_initialized()
        finally:
            vars(distributed.global_state).clear()
            vars(distributed.global_state).update(before)
    jax.devices()
    assert jax_service.has_backends()


def test_this_jax_has_what_podrl_uses():
    jax_service.check_names()


def test_an_argument_that_jax_does_not_take_is_a_mistake_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr("jaxlib._jax.get_distributed_runtime_client", lambda address, *, rank: None)
    monkeypatch.setattr("jaxlib._jax.get_distributed_runtime_service", lambda address, nodes, *, beat: None)
    oldest, newest = jax_service.TESTED
    said = (
        f"jax {jax.__version__} differs in the arguments of .*client, .*tested with jax {oldest} and {newest}; a run "
        f"of one process needs neither. Install one of them: pip install 'jax=={newest}', or 'jax=={oldest}'"
    )
    with pytest.raises(ConfigError, match=said):
        jax_service.Client("localhost:1", 0, connect_s=1, beat_s=30)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ConfigError, match="runtime_service, on wh"):
        jax_service.start_service(listener, "localhost:1", 1, 25)


def test_a_job_of_several_processes_ends_with_one_line_where_jax_has_changed(tmp_path):
    with another_jax(tmp_path, RENAMED) as run:
        result = run("--coordinator", free_address(), "--process_count", 2, "--process_index", 0)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if "rror" in line]
    assert line.startswith(f"podrl: error: jax {jax.__version__} differs in jaxlib._jax.get_distributed_runtime_client")


def test_a_run_of_one_process_never_imports_it_whatever_jax_is_like(tmp_path):
    with another_jax(tmp_path, RENAMED) as run:
        result = run("--smoke", "--workdir", "run")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "imported: True False"


def test_a_job_of_one_process_needs_none_of_it(monkeypatch):
    monkeypatch.setattr(jax_service, "check_names", lambda: pytest.fail("asked for"))
    alone = join(find_membership({}, metadata=lambda key: None), 1, {})
    assert alone.exchange("greetings", "hello", 1) == ["hello"]
    alone.leave(0)
