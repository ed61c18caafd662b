"""Configs of whole runs to start from: each file's `get_config()` returns one as a ConfigDict."""

from podrl.config.user_modules import folders_of

__path__ = folders_of(__name__)
