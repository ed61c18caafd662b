"""Log lines of programs that train nothing themselves: launchers and environment workers."""

import logging as standard_logging

from absl import flags, logging


def log_as(name: str, *, quiet: bool = False) -> None:
    """Logs this process's lines to stderr as `[name 12:00:01] text`; quiet logs only what is wrong."""
    if not flags.FLAGS.is_parsed():  # podrl has a flag parser of its own; absl would complain that it parsed no flags.
        flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING if quiet else logging.INFO)
    formatter = standard_logging.Formatter(f"[{name} %(asctime)s] %(message)s", datefmt="%H:%M:%S")
    logging.get_absl_handler().setFormatter(formatter)
