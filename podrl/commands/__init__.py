"""The bodies of the commands in `tools/`: each reads its flags and calls one room."""
