"""The demo: a flood of downloads on `lopri` next to interactive calls on `default`, shown live."""
