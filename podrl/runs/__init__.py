"""What a run leaves on disk: its folder, checkpoints, how it resumes, and how two runs are compared."""
