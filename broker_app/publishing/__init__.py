"""Publishing: messages, routes, confirms, in bulk, and from the spool."""
