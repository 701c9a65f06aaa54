"""The Python interface: what `import edgevit` offers. It runs the stages that the command line runs."""
