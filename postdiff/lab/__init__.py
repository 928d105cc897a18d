"""Experiments: configs to runs, runs to records, records to tables. Needs the extra `lab`."""
