"""``contrast-arch report``: curves, a table and a page from what BasicSR wrote of experiments."""
