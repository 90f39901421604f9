"""Metrics of uncertainty against SciPy, scikit-learn and closed forms."""
