"""The language between the rooms: dialect ops, graphs, stages, targets."""
