"""Training: one `fit` for teachers, students and fine-tuning, with different objectives and schedules."""
