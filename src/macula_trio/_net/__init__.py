"""Datagrams and QUIC: the only rooms that know sockets and aioquic."""
