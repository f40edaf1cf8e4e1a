"""Other backward rules, and other ways to compute: how functions behave while a method asks."""
