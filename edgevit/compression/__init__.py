"""Pruning and low-rank factorization to a budget: scores of units (importance), their removal (pruning), ranks
(low_rank), and the share of the cost that meets a latency (latency_search). The changes of a model are in
`edgevit.models`.
"""
