"""Result store: the SQL backend, shared waiting, fault tolerance, deferred writes and checks."""
