"""What "times" and "plus" are in a contraction: one `Dot` for each form of operands and machine."""
