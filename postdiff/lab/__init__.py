"""Experiments: configs to plans, plans to images and records, records to tables. Needs the extra `lab`.

From low to high; each imports only what stands before it:

documented   what docstrings and checks of methods tell of their options
config       what a run is made of, and how YAML and the command line become it
files        folders that are written to, and locks on them; weights in folders or on the hub
data         prompts and classes, images that go in, real ones to compare with; samples in batches
pipelines    from a model card to a pipeline, its stages, what it takes, and options of its network
devices      what computes a run: one device or several processes
metrics      which metrics a row measures, and what stands behind them
plan         a row made ready: every check that needs no weights, and its two identities
images       finished images on disk
generate     from samples to pixels; the loop over a row's batches
records      what runs leave behind, and whether it is whole
tables       records as flat rows of values, and as tables in five formats
loggers      records once more on W&B, TensorBoard, and loggers of one's own
macs         what rows cost in multiply-accumulates
evaluation   the row's Lightning module, and its metrics
row          one row from start to end
bench        how long rows take beside reference implementations, and where the time goes
analysis     a denoiser looked at from inside
report       an experiment as one page of HTML
run          an experiment from start to end; `launch` has its rows run as jobs of their own
planner      the best setting of a model within a budget
app          a page in the browser to try methods; needs the extra `app`
"""
