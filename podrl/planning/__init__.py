"""What a run will need and how fast it will be on machines that are not there."""
