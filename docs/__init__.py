"""The documentation: pages in Markdown, and what generates the rest of them from the code and the results."""
