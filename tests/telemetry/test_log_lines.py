import importlib.util
import io
import logging
import sys
import warnings

from absl import logging as absl_logging
import pytest

from podrl.telemetry.log_lines import configure_logging

(ORBAX,) = importlib.util.find_spec("orbax").submodule_search_locations


class TestConfigureLogging:
    def test_prefix_levels_and_silence(self, monkeypatch, restored_logging):
        file = io.StringIO()
        monkeypatch.setattr(sys, "stderr", file)
        restored_logging.python_handler.setStream(file)
        configure_logging(3)
        configure_logging(3)
        absl_logging.info("hello %d", 1)
        absl_logging.warning("careful")
        logging.getLogger("orbax.checkpoint").warning("noise")
        logging.getLogger("jax._src.dispatch").info("noise")
        lines = [line for line in file.getvalue().splitlines() if "flag parsing" not in line]
        assert [line[:4] for line in lines] == ["[p3 ", "[p3 "]
        assert [line[12:] for line in lines] == ["] hello 1", "] WARNING: careful"]

    @pytest.mark.parametrize(
        ("module", "category", "is_shown"),
        [
            ("podrl.runtime.tool", UserWarning, True),
            ("podrl.runtime.tool", DeprecationWarning, True),
            ("podrl.runtime.tool", ResourceWarning, False),  # Of a file that Ctrl-C left open.
            ("orbax", UserWarning, False),
            ("podrlish", UserWarning, False),
        ],
    )
    @pytest.mark.usefixtures("restored_logging")
    def test_warnings_are_of_podrl(self, monkeypatch, module, category, is_shown):
        monkeypatch.setattr(sys, "warnoptions", [])
        with warnings.catch_warnings(record=True) as shown:
            configure_logging(0)
            warnings.warn_explicit("text", category, "file.py", 1, module=module)
        assert bool(shown) == is_shown

    @pytest.mark.parametrize(
        ("path", "level", "shown"),
        [
            (f"{ORBAX}/checkpoint/_src/futures/future.py", logging.ERROR, False),  # Orbax raises what it logs there.
            (f"{ORBAX}/checkpoint/_src/metadata/checkpoint.py", logging.ERROR, True),
            (f"{ORBAX}/checkpoint/_src/metadata/checkpoint.py", logging.WARNING, False),
            ("/home/me/flax/podrl/podrl/train.py", logging.INFO, True),
            ("/home/me/orbax/checkpoint/_src/futures/future.py", logging.ERROR, True),
        ],
    )
    def test_an_error_of_a_library_is_shown_unless_it_is_raised_too(
        self, monkeypatch, restored_logging, path, level, shown
    ):
        file = io.StringIO()
        monkeypatch.setattr(sys, "stderr", file)
        restored_logging.python_handler.setStream(file)
        configure_logging(0)
        error = ValueError("a reason")
        absl_logger = absl_logging.get_absl_logger()
        failed = (ValueError, error, None) if level >= logging.ERROR else None
        absl_logger.handle(absl_logger.makeRecord("absl", level, path, 1, "it happened", (), failed))
        assert ("it happened" in file.getvalue()) == shown
        assert ("ValueError: a reason" in file.getvalue()) == (shown and failed is not None)
