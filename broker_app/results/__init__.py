"""Result store: the SQL backend, shared waiting, fault tolerance, the writer of batches and checks."""
