"""`postdiff plan`: of all settings of a model that keep to a budget, the one that is nearest to the full run.

A setting is an ordinary row of an experiment, and what is found out about it is an ordinary record.

asked     what is asked for, each part checked
budget    what may be spent: a share of the full run, MACs, or seconds
space     which settings there are, as a file of `configs/plans` has them
cost      what a setting costs, before anything is generated
times     how long a setting takes here; bench_check times the plan itself
race      many settings on few prompts, the best of them on more
masks     which steps to compute, searched; mask_trials asks the model
trials    what a setting's images are worth, from records or from a run
certainty intervals, ties, and how far an order on few prompts holds on more
answer    the table, the sentence, the file and the lines of Python; listed, for a dry run
planning  all of it in turn
"""
