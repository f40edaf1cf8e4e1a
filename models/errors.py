"""The errors that a user can mend."""


class ConfigurationError(ValueError):
    """A request that cannot be carried out: which field, what was found, what to do."""
