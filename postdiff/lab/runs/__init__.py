"""One row from start to end: its pictures, its numbers, its record."""
