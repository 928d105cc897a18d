"""What a call costs: multiply-accumulates and time."""
