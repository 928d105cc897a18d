"""What rows cost in multiply-accumulates."""
