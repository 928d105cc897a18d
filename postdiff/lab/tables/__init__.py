"""Tables of records: one flat row of values for each row of an experiment, rendered in five formats."""
