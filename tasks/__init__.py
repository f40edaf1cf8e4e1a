"""The steps that happen to data: reading, storing, planning, delivering."""
