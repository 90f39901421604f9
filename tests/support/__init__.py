"""What the tests share: the table of cases, the reference, models and runners."""
