"""When and where: flows, configuration and the command line."""
