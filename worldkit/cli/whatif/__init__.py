"""``worldkit whatif``: which thing is meant, what becomes of it, and the pictures and words of what follows."""
