"""From samples to pixels, through one pipeline or several."""
