"""How the package is built: floors, imports, explanations, what is refused."""
