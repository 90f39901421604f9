"""What holds for every variant, over one table of cases."""
