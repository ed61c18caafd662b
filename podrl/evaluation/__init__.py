"""What an agent scores: whole episodes by the environment's own protocol."""
