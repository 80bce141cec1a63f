"""Degradation operators ``degraded = N(A(clean))``, each with its own generator."""
