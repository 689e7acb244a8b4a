"""What qcompile is timed against: the same float network in other frameworks, each made ready.

Nothing is dropped silently: what cannot be had raises `Unavailable`, with a reason and what to do.
"""
