"""One script for each published number; its raw JSON lies beside it in results/."""
