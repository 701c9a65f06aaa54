"""Prediction of latency on a board that is absent: kernels of a graph, a roofline for each, constants from the web.

`kernels.py` counts work and traffic, `roofline.py` turns them into times, `calibration.py` fits the constants to
published latencies (`published.csv`), `estimate.py` gives a latency with its interval.
"""
