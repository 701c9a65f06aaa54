"""The report: measurements, the verdict on the budget, and the page that shows them."""

from edgevit.report.text import summary

__all__ = ["summary"]
