"""The report: measurements, the verdict on the budget, and the page that shows them."""

from edgevit.report.text.report import summary

__all__ = ["summary"]
