"""Image restoration papers, checked cell by cell."""
