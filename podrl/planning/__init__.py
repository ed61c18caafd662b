"""What a run would do on machines that nobody has booked yet."""
