"""Text that may come from a cohort, made plain for those who show it."""


def plain(text: str) -> str:
    """Show what is no printable character as its escape sequence: a terminal obeys some of them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain_lines(text: str) -> str:
    """Make every line of a text plain; where lines end stays as it is."""
    return "\n".join(map(plain, text.split("\n")))
