"""How a stock diffusers pipeline is driven from outside: torch and diffusers only, nothing else of ours."""
