"""What happens to data: the steps that have an outside."""
