"""What each op computes: one file for each family."""
