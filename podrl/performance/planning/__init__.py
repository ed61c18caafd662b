"""What a run will need and do on machines that are not there."""
