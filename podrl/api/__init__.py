"""What scripts and notebooks call: they train, load a policy, read metrics. `import podrl` has these names."""
