"""The report: what was measured, whether it meets the budget, and the page that says so."""

from edgevit.report.text import summary

__all__ = ["summary"]
