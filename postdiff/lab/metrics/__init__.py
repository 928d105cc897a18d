"""Which metrics a row measures, and the networks and statistics that stand behind them."""
