"""What a user can mend."""


class ConfigurationError(ValueError):
    """What was asked for cannot be done: which field, what was found, what to do."""
