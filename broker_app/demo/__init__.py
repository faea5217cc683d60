"""The demo: a flood of downloads on `lopri`, a person's work on `default`, both shown live."""
