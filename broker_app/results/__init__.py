"""Result store: fault tolerance, deferred writes, the SQL backend and its checks."""
