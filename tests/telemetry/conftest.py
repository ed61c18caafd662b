import logging
import warnings

from absl import logging as absl_logging
import pytest


@pytest.fixture
def restored_logging():
    handler = absl_logging.get_absl_handler()
    before = (absl_logging.get_verbosity(), handler.python_handler.formatter, list(handler.filters))
    root_handlers = list(logging.root.handlers)
    with warnings.catch_warnings():
        yield handler
    absl_logging.set_verbosity(before[0])
    handler.setFormatter(before[1])
    handler.filters[:] = before[2]
    logging.root.handlers[:] = root_handlers
