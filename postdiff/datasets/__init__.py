"""Data sets as files: read whatever holds prompts, freeze a choice of lines, fetch the official sources."""
