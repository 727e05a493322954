"""Who talks: command line, settings, server, conversations, protocols."""
