"""The public functions: the only place where user input is checked. Knows no algorithm."""
