"""Smaller models from larger ones. Every function takes a `BuiltModel` and a budget and gives a `BuiltModel` or a part
of the decision: scores of units (importance), their removal (pruning), ranks (low_rank), the share of the cost that
meets a latency (latency_search). The changes themselves are in `edgevit.models`.
"""
