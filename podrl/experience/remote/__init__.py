"""Environment workers: processes, here or on other hosts, that step the environments of a learner's actors."""
