"""The run loops, one file each, and what they share."""
