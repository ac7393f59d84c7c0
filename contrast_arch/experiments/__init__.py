"""Training runs side by side: the record of a run, the report on several, and the comparison that makes them."""
