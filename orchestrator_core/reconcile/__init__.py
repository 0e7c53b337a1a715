"""The world against the records: what a crash left behind, found and repaired."""
