"""What commands do beyond the stages of a recipe."""
