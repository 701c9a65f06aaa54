"""Teachers, their cached answers, and what students learn from beside labels."""
