"""`postdiff app`: a page in the browser to try methods on a pipeline. Needs the extra `app`.

asked       what somebody asks for, as the rows of an experiment
fields      options of methods as fields of a form, and back
generation  one comparison: its runs with progress, stopped when asked to; nothing of Gradio in it
numbers     what came out, as a table, a picture of differences, and the work of every step
written     the same as an experiment file and as lines of Python
budget      `postdiff plan` as a process that can be stopped
page        where everything stands on the page
events      what happens when a button is pressed
server      the page on an address of this machine
"""
