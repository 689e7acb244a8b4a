"""What qcompile is timed against: the same float network in other frameworks, each made ready.

Nothing is dropped silently: what cannot be had is an entrant with a reason instead of a call.
"""
