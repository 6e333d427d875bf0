"""NumPy float64 oracle: one plain function per native operation, slow and obvious. Imports nothing of the package."""
