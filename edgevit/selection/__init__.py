"""Students chosen by measurement: the shortlist, their latency on the target, and the choice for a budget."""
