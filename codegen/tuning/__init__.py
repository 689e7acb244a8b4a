"""Tuning: of the ways to compute a contraction, find the fastest by measuring them."""
