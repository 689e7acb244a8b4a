"""Which kernel computes a layer the fastest: a model of their times, fitted to measured ones."""
