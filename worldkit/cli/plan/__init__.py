"""`worldkit plan`: from its options to a task, and to words."""
