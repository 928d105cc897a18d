"""`postdiff report`: an experiment as one page of HTML that needs nothing else to be read.

`contents` gathers what the page tells, and `page` makes the file; `summary`, `images` and `timeline` are parts of it.
`recorded` finds the settings that the records were made with.
"""
