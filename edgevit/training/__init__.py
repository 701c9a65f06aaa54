"""Training: one `fit` for teachers, students and fine-tuning; they differ in their objective and their schedule."""
