"""The tests: behaviour by behaviour, over real sockets and files."""
