"""What a user can mend."""


class ConfigurationError(Exception):
    """A configuration that cannot be carried out: which field, what was found, what to do."""
