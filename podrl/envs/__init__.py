"""Environments: `source` is the interface, `sources` has one file per source."""
