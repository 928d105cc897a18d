"""Experiments: configs to runs, runs to records, records to tables. Needs the extra `lab`.

From low to high; each imports only what stands before it:

settings    what a run is made of, and how YAML and the command line become it
files       folders that are written to, and who may; weights in folders or on the hub
network     options of a whole network, each held for the length of a call
inputs      prompts and classes, pictures that go in, real ones to compare with
pipelines   from a model card to a pipeline, its stages, and what it takes
devices     what computes a run, one device or many
images      finished images on disk
scores      which metrics a row measures, and what stands behind them
job         a row made ready: every check that needs no weights, and its identities
drawing     from samples to pixels
records     what runs leave behind
tables      records as flat rows of values, and as tables in five formats
mirrors     records once more on W&B and TensorBoard
macs        what rows cost in multiply-accumulates
runs        one row from start to end
timing      how long rows take, and where the time goes
analysis    a denoiser looked at from inside
run         an experiment from start to end; `launch` has its rows run as jobs of their own
"""
