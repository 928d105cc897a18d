"""What docstrings and checks of methods tell of their options, for pages and forms."""
