"""Studies: scenarios times seeds times settings, recorded anywhere and replayed to one table."""
