"""A TCP proxy that can be cut, black-holed and slowed: what stands between a client and its broker in fault tests."""

import contextlib
import queue
import socket
import threading
import time

CHUNK_BYTES = 1 << 16
WAITING_CHUNKS = 256


class Proxy:
    """Listens on a port of its own, which stays; `target` is host:port and may be set later.

    A client is told the broker's own address, so the broker must advertise the proxy:
        proxy = Proxy()
        broker = Broker(folder, listeners={"PROXIED": "PLAINTEXT"}, advertised={"PROXIED": proxy.port}).start()
        proxy.target = broker.address("PROXIED")        # clients use proxy.bootstrap
    """

    def __init__(self, target=None):
        self.target = target
        self._open = threading.Event()
        self._open.set()
        self._delay_s = 0.0
        self._lock = threading.Lock()
        self._sockets = set()
        self._closed = False
        self._listener = None
        self.port = 0
        self._listen()

    @property
    def bootstrap(self):
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    def cut(self):
        """Every connection is reset and new ones are refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)
        self._drop()

    def black_hole(self):
        """Connections stay, and new ones are taken, but no byte comes through in either direction."""
        self._open.clear()

    def delay(self, seconds):
        """Every byte takes `seconds` longer, in each direction."""
        self._delay_s = seconds

    def heal(self):
        """As if nothing had been; what was held back by a black hole goes on its way."""
        self._delay_s = 0.0
        self._open.set()
        if self._listener is None:
            self._listen()

    def close(self):
        """Idempotent."""
        self._closed = True
        self.cut()
        self._open.set()

    def _listen(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        host, _, port = (self.target or "127.0.0.1:1").rpartition(":")
        try:
            server = socket.create_connection((host, int(port)), timeout=10)
        except OSError:
            _shut(client)
            return
        server.settimeout(None)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets |= {client, server}
        for source, sink in ((client, server), (server, client)):
            waiting = queue.Queue(WAITING_CHUNKS)
            threading.Thread(target=self._take, args=(source, waiting), daemon=True).start()
            threading.Thread(target=self._give, args=(waiting, sink), daemon=True).start()
        if self._listener is None:  # cut meanwhile
            self._drop()

    def _take(self, source, waiting):
        while True:
            self._open.wait()
            try:
                data = source.recv(CHUNK_BYTES)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + self._delay_s, data))
            if not data:
                return

    def _give(self, waiting, sink):
        while True:
            due, data = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            self._open.wait()
            try:
                if not data:
                    raise OSError("the other side has gone")
                sink.sendall(data)
            except OSError:
                self._forget(sink)
                while data:  # so that the other thread does not wait for room
                    _, data = waiting.get()
                return

    def _forget(self, one):
        with self._lock:
            self._sockets.discard(one)
        _shut(one)

    def _drop(self):
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with contextlib.suppress(OSError):  # a reset, not an orderly end
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            _shut(one)


def _shut(one):
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
