"""Looking after a root: the sweeper, alerts, metrics, retention, and the doctor."""
