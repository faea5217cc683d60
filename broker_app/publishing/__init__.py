"""Publishing: building messages, routing, publisher confirms, bulk publishing and the spool."""
