"""What each platform that starts processes says of a process's place: one file per platform."""
