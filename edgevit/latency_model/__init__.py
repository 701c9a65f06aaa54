"""Prediction of latency on a board that is absent: kernels of a graph, a roofline for each, constants from the web.

`kernels.py` counts work and traffic, `roofline.py` turns them into times with the constants of `constants.py`,
`estimate.py` gives a latency with its interval. benchmarks/latency_model.py fits the constants.
"""
