"""The bodies of the programs in `tools/`: each reads a command line and returns an exit code."""
