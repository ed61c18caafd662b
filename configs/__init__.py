"""Runs to start from: each file's `get_config()` returns a whole run as a ConfigDict."""
