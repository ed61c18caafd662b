"""Configs of whole runs to start from: each file's `get_config()` returns one as a ConfigDict."""

import os

from podrl.config.user_modules import folders_of

if __name__ == "configs":  # Its old name, under which users have folders, too; the new one is `podrl.configs`.
    __path__ = list(dict.fromkeys([*folders_of(__name__), os.path.dirname(os.path.abspath(__file__))]))
