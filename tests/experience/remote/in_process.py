"""Environment workers as threads of the tests' process, and a server that listens at a socket of its own."""

from collections.abc import Iterator
import contextlib
import threading

from podrl.config.config import ConfigError
from podrl.experience.remote.endpoint import Endpoint
from podrl.experience.remote.worker import LostLearnerError, serve_learner
from podrl.runtime.job.secret import FILE_VARIABLE
from tests.short_runs import make_config

SECRET = "a secret that all tests know"


def remote_config(folder, *, num_workers=2, **overrides):
    settings = {"remote__env_workers": num_workers, "remote__address": f"unix:{folder}/s", "remote__timeout_s": 20.0}
    return make_config(**{**settings, **overrides})


@contextlib.contextmanager
def env_workers(folder, monkeypatch, count=2, *, endpoint=None) -> Iterator[list[str]]:
    """Workers that wait for a learner at a socket in the folder; yields what those that failed have said.

    They connect to another endpoint if there is a wire between.
    """
    monkeypatch.setenv(FILE_VARIABLE, str(write_secret(folder)))
    said: list[str] = []

    def serve() -> None:
        try:
            serve_learner(endpoint or Endpoint(f"unix:{folder}/s"), SECRET.encode(), wait_s=60)
        except (LostLearnerError, ConfigError) as error:
            said.append(str(error))

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    yield said
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def write_secret(folder, text=SECRET):
    path = folder / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return path
