"""`python -m postdiff` is `postdiff`."""

from postdiff.cli import entry

entry()
