"""Services for tests and benchmarks: real processes on real sockets, never a mock."""
