"""Experiments: configs to runs, runs to records, records to tables. Needs the extra `lab`.

From low to high; each imports only what stands before it:

config      what a run is made of, and how YAML and the command line become it
files       folders that are written to; weights in folders or on the hub
network     options of a whole network, each held for the length of a call
inputs      prompts and classes, pictures that go in, real ones to compare with
pipelines   from a model card to a pipeline, its stages, and what it takes
devices     what computes a run, one device or many
storage     finished pictures on disk, and who may write them
scores      which metrics a row measures, and what stands behind them
job         a row made ready: every check that needs no weights, and its identities
drawing     from samples to pixels
records     what runs leave behind, and the figures and tables made of it
mirrors     records once more on W&B and TensorBoard
macs        what rows cost in multiply-accumulates
runs        one row from start to end
timing      how long rows take, and where the time goes
analysis    a denoiser looked at from inside
run         an experiment from start to end; `launch` has its rows run as jobs of their own
"""
